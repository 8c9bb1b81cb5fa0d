"""Labels as Parquet files, some images each, for tools that read tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from segrefinery.core.files import whole_file, write_json
from segrefinery.core.lazy import optional
from segrefinery.data.label_files import share_image
from segrefinery.data.numbering import own_numbering
from segrefinery.interchange.labels.base import Item, Labelled, LabelWriter


@dataclass
class ParquetLabels(LabelWriter):
    """``part-NNNNNN.parquet`` of 32 images each: ``number``, ``name``, ``height``, ``width``, and as PNG ``label`` and
    ``weight``; ``classes.json``. Images that are written together come from one process."""

    chunk: int = 32
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        arrow()

    def files(self, item: Item) -> Sequence[Path]:
        return (self._part(item.index),)

    def write(self, item: Item, image: Tensor | None, labelled: Labelled) -> None:
        label, confidence = labelled
        numbering = self.numbering or own_numbering(self.space)
        self._rows.append(
            {"number": item.index, "name": item.name, "height": label.shape[0], "width": label.shape[1],
             "label": _png(numbering.picture(label)), "weight": _png(share_image(confidence))}
        )  # fmt: skip

    def close(self) -> None:
        if not self._rows:
            return
        pyarrow, parquet = arrow()
        with whole_file(self._part(self._rows[0]["number"]), durable=False) as file:
            parquet.write_table(pyarrow.Table.from_pylist(self._rows), file)
        self._rows = []

    def finish(self, items: Sequence[Item]) -> None:
        codes = (self.numbering or own_numbering(self.space)).codes
        classes = zip(codes, self.space.classes, self.space.colors, strict=True)
        described = [{"id": code, "name": name, "color": list(color)} for code, name, color in classes]
        write_json(self.folder / "classes.json", described)

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index // self.chunk:06d}.parquet"


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def arrow() -> tuple[Any, Any]:
    """``pyarrow`` and its ``parquet``.

    Raises:
        SegRefineryError: it is not installed.
    """
    need = "--format parquet needs pyarrow"
    return optional("pyarrow", need, "ray"), optional("pyarrow.parquet", need, "ray")
