"""Labels as Parquet files, some images each, for tools that read tables."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from segrefinery.core.files import cannot_write, whole_file, write_json
from segrefinery.core.lazy import optional
from segrefinery.data.decoding import DataError, most_pixels
from segrefinery.data.label_files import AS_PNG, share_image
from segrefinery.data.numbering import own_numbering
from segrefinery.interchange.labels.base import Item, Labelled, LabelWriter

AT_ONCE = 1 << 26
"""Bytes of PNGs that are held: in memory until a part is written, and then as a group of its rows."""
LONGEST = (1 << 31) - (1 << 24)
"""Bytes in a cell, and so pixels of a picture that does not shrink."""


@dataclass
class ParquetLabels(LabelWriter):
    """``part-NNNNNN.parquet`` of 32 images each: ``number``, ``name``, ``height``, ``width``, and as PNG ``label`` and
    ``weight``; ``classes.json``. Images that are written together come from one process.

    However large the images are, 64 MiB of PNGs are held beside those of one of them; the others wait on disk, in a
    file without a name in the folder.
    """

    chunk: int = 32
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _pngs: Any = None

    def __post_init__(self) -> None:
        arrow()

    def files(self, item: Item) -> Sequence[Path]:
        return (self._part(item.index),)

    def refuse(self, item: Item, size: tuple[int, int]) -> None:
        most = min(most_pixels(), LONGEST)
        if size[0] * size[1] > most:
            problem = f"has {size[1]} x {size[0]} pixels, more than {most:,}, and Parquet keeps a picture in one cell"
            raise DataError(item.file or item.name, "image", problem, "write --format png, or cut it into tiles")

    def write(self, item: Item, image: Tensor | None, labelled: Labelled) -> None:
        label, confidence = labelled
        row = {"number": item.index, "name": item.name, "height": label.shape[0], "width": label.shape[1]}
        pictures = {"label": (self.numbering or own_numbering(self.space)).picture(label)}
        pictures["weight"] = share_image(confidence)
        try:
            if self._pngs is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._pngs = tempfile.SpooledTemporaryFile(AT_ONCE, dir=str(self.folder))  # noqa: SIM115
            self._rows.append(row | {name: _append(self._pngs, each) for name, each in pictures.items()})
        except OSError as error:
            raise cannot_write(self._part(item.index), error) from error

    def close(self) -> None:
        if not self._rows:
            return
        pyarrow, parquet = arrow()
        kinds = {"number": pyarrow.int64(), "name": pyarrow.string(), "height": pyarrow.int64()}
        kinds |= {"width": pyarrow.int64(), "label": pyarrow.binary(), "weight": pyarrow.binary()}
        schema = pyarrow.schema(kinds)
        with (
            whole_file(self._part(self._rows[0]["number"]), durable=False) as file,
            parquet.ParquetWriter(file, schema) as table,
        ):
            for rows in self._groups():
                table.write_table(pyarrow.Table.from_pylist(rows, schema))
        self._pngs.close()
        self._rows, self._pngs = [], None

    def _groups(self) -> Iterator[list[dict[str, Any]]]:
        """The rows with their PNGs, as many as may be held together."""
        self._pngs.seek(0)
        group, held = [], 0
        for row in self._rows:
            size = row["label"] + row["weight"]
            if group and held + size > AT_ONCE:
                yield group
                group, held = [], 0
            group.append(row | {name: self._pngs.read(row[name]) for name in ("label", "weight")})
            held += size
        yield group

    def finish(self, items: Sequence[Item]) -> None:
        codes = (self.numbering or own_numbering(self.space)).codes
        classes = zip(codes, self.space.classes, self.space.colors, strict=True)
        described = [{"id": code, "name": name, "color": list(color)} for code, name, color in classes]
        write_json(self.folder / "classes.json", described)

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index // self.chunk:06d}.parquet"


def _append(file: Any, picture: Image.Image) -> int:
    """Write a picture as PNG behind others -> its bytes."""
    content = io.BytesIO()
    picture.save(content, **AS_PNG)
    return file.write(content.getbuffer())


def arrow() -> tuple[Any, Any]:
    """``pyarrow`` and its ``parquet``.

    Raises:
        SegRefineryError: it is not installed.
    """
    need = "--format parquet needs pyarrow"
    return optional("pyarrow", need, "ray"), optional("pyarrow.parquet", need, "ray")
