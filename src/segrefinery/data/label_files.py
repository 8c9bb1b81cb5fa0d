"""Labels on disk: one palette PNG an image that a person can look at, one grey PNG for its weight, and a list of
which file is whose."""

from __future__ import annotations

import csv
import io
import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import whole_file, write_text
from segrefinery.data.decoding import DataError, read_ids
from segrefinery.labels import LabelSpace

if TYPE_CHECKING:
    from torch import Tensor

MADE = "made.json"
"""In a folder of results: by which model and with which settings they are made."""
MANIFEST = "files.csv"
"""Which file belongs to which image."""
AS_PNG = {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}
"""How Pillow saves a PNG. Behind PNG's filters run lengths take a fifth of the time that a search for repetitions
takes, and no more bytes: of labels, confidences and photographs."""
_LONGEST = 120
"""Bytes of an image's name in a file name: with number and suffix it fits the 143 that encrypted folders allow."""


def file_stem(index: int, name: str) -> str:
    """A file name without suffix that sorts by index and survives any image name.

    Letters and digits of all scripts stay, and ``.``, ``-`` and ``_``; whatever else there is, slashes too, becomes
    ``_``. Of a name that is too long the end is kept. The name has no suffix: what follows its last point is no less
    part of it.
    """
    composed = unicodedata.normalize("NFC", name)
    kept = (c if c in "._-" or unicodedata.category(c)[0] in "LMN" else " " for c in composed)
    safe = "_".join("".join(kept).split()).encode()[-_LONGEST:]
    return f"{index:06d}_{safe.decode(errors='ignore')}"


def palette_image(label: Tensor, space: LabelSpace) -> Image.Image:
    """H x W ids as an 8-bit image whose pixel values are the ids and which shows the classes' colours."""
    import torch

    picture = Image.fromarray(label.to(torch.uint8).cpu().numpy(), mode="P")
    palette = [channel for color in space.colors for channel in color]
    picture.putpalette(palette + [0] * (768 - len(palette)))
    return picture


def share_image(share: Tensor) -> Image.Image:
    """H x W values in [0, 1], or uint8, as a grey image, 0..255."""
    import torch

    if share.dtype == torch.uint8:
        return Image.fromarray(share.cpu().numpy())
    return Image.fromarray((share * 255).round().to(torch.uint8).cpu().numpy())


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a picture whole or not at all."""
    with whole_file(path, durable=False) as file:
        picture.save(file, **AS_PNG)


def write_manifest(folder: Path, rows: Iterable[tuple[int, str, str | Path]]) -> Path:
    """Write ``folder/files.csv``: a line ``number,name,file`` for each image, in order of number. Warns of files
    that an earlier list named and this one does not.

    Args:
        rows: an image's place in the data set, its name there, and the file in ``folder`` with its class ids.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("number", "name", "file"))
    for number, name, file in sorted(rows, key=lambda row: row[0]):
        inside = Path(file).relative_to(folder) if Path(file).is_relative_to(folder) else Path(file)
        lines.writerow((number, name, inside.as_posix()))
    path = Path(folder) / MANIFEST
    left = sorted(file for file in _files_in(path) - _files_named(text.getvalue()) if (path.parent / file).exists())
    write_text(path, text.getvalue())
    if left:
        told = f"{len(left)} results, first {left[0]}, of images that are gone or have another number now"
        warnings.warn(f"{folder}: holds {told}; {MANIFEST} does not name them, remove them", stacklevel=2)
    return path


def _files_in(manifest: Path) -> set[str]:
    """The files that a list of results names; none where there is no list."""
    try:
        return _files_named(manifest.read_text("utf-8", "surrogateescape"))
    except (OSError, csv.Error):
        return set()


def _files_named(manifest: str) -> set[str]:
    return {row["file"] for row in csv.DictReader(io.StringIO(manifest)) if row.get("file")}


def write_label_files(folder: Path, index: int, name: str, label: Tensor, weight: Tensor, space: LabelSpace) -> str:
    """Write ``folder/STEM.png`` (class ids in the classes' colours, 255 ignored) and ``folder/STEM.weight.png`` (0..255
    for a weight of 0..1) of one image -> the name of the first.

    Args:
        index: the image's place in its data set; ``name`` its name there.
        label: H x W ids. weight: H x W in [0, 1].
    """
    stem = file_stem(index, name)
    save_png(folder / f"{stem}.weight.png", share_image(weight))
    save_png(folder / f"{stem}.png", palette_image(label, space))
    return f"{stem}.png"


def write_label_set(
    folder: Path,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Sequence[str],
    space: LabelSpace,
) -> None:
    """Write the labels of many images (see ``write_label_files``), and last ``folder/files.csv``.

    Args:
        batches: label B x H x W, weight B x H x W, and B places in the data set.
        names: of the images, by place; empty if they have none.
    """
    rows = []
    for labels, weights, places in batches:
        for label, weight, index in zip(labels, weights, places.tolist(), strict=True):
            name = str(names[index]) if names else ""
            rows.append((index, name, write_label_files(folder, index, name, label, weight, space)))
    write_manifest(folder, rows)


class PseudoLabeled:
    """A target data set with the labels our own teacher wrote, for an offline generation."""

    space = None
    has_labels = False

    def __init__(self, dataset, folder: Path) -> None:
        self.dataset = dataset
        self.folder = folder

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def image(self, index: int) -> Tensor:
        return self.dataset.image(index)

    def pseudo(self, index: int) -> tuple[Tensor, Tensor]:
        """H x W int64 label (255 ignored) and H x W uint8 weight (255 = 1), at the size of the image as it was seen.

        Raises:
            SegRefineryError: a file is missing or unreadable.
        """
        stem = self.folder / file_stem(index, self.name(index))
        try:
            return read_ids(Path(f"{stem}.png")).long(), read_ids(Path(f"{stem}.weight.png"))
        except DataError as error:
            raise SegRefineryError(
                f"{error.file}: the pseudo-label of this generation {error.problem}; delete the folder of this "
                "generation and resume, so that it is made again"
            ) from error
