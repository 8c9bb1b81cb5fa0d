"""Pseudo-labels on disk: one palette PNG an image that a person can look at, one grey PNG for its weight."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.refine.base import PseudoLabels

MANIFEST = "files.csv"
"""Which file belongs to which image."""
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


def write_manifest(folder: Path, rows: Iterable[tuple[int, str, str | Path]]) -> Path:
    """Write ``folder/files.csv``: a line ``number,name,file`` for each image, in order of number.

    Args:
        rows: an image's place in the data set, its name there, and the file in ``folder`` with its class ids.
    """
    path, part = Path(folder) / MANIFEST, Path(folder) / f"{MANIFEST}.part"
    # A file name on Linux may be no UTF-8: its bytes are written as they are.
    with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("number", "name", "file"))
        lines.writerows((number, name, Path(file).name) for number, name, file in sorted(rows, key=lambda row: row[0]))
    os.replace(part, path)
    return path


def write_pseudo_labels(
    folder: Path, found: Iterable[tuple[PseudoLabels, UnlabeledBatch]], names: Sequence[str], space: LabelSpace
) -> None:
    """Write ``folder/STEM.png`` (class ids in the classes' colours, 255 ignored) and ``folder/STEM.weight.png``
    (0..255 for a weight of 0..1), at the size of the images the teacher saw; last ``folder/files.csv`` with the names
    (see ``write_manifest``)."""
    folder.mkdir(parents=True, exist_ok=True)
    palette = [channel for color in space.colors for channel in color]
    palette = palette + [0] * (768 - len(palette))
    rows: list[tuple[int, str, str]] = []
    for labels, batch in found:
        full = labels.resize((batch.image.shape[-2], batch.image.shape[-1]))
        for label, weight, index in zip(full.labels.cpu(), full.weight.cpu(), batch.index.tolist(), strict=True):
            name = str(names[index]) if names else ""
            stem = file_stem(index, name)
            rows.append((index, name, f"{stem}.png"))
            mask = Image.fromarray(label.to(torch.uint8).numpy(), mode="P")
            mask.putpalette(palette)
            mask.save(folder / f"{stem}.png")
            Image.fromarray((weight * 255).round().to(torch.uint8).numpy()).save(folder / f"{stem}.weight.png")
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
            label = np.array(Image.open(f"{stem}.png"))
            weight = np.array(Image.open(f"{stem}.weight.png"))
        except OSError as error:
            raise SegRefineryError(
                f"{stem}.png: the pseudo-label of this generation cannot be read ({error}); delete the folder of this "
                "generation and resume, so that it is made again"
            ) from error
        return torch.from_numpy(label).long(), torch.from_numpy(weight)
