"""Pseudo-labels on disk: one palette PNG an image that a person can look at, one grey PNG for its weight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrefinery.data.batch import UnlabeledBatch
from segrefinery.errors import SegRefineryError
from segrefinery.labels import LabelSpace
from segrefinery.refine.base import PseudoLabels


def file_stem(index: int, name: str) -> str:
    """A file name that sorts by index and survives any image name."""
    return f"{index:06d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(name).stem)[:80]}"


def write_pseudo_labels(
    folder: Path, found: Iterable[tuple[PseudoLabels, UnlabeledBatch]], names: Sequence[str], space: LabelSpace
) -> None:
    """Write ``folder/STEM.png`` (class ids in the classes' colours, 255 ignored) and ``folder/STEM.weight.png``
    (0..255 for a weight of 0..1), at the size of the images the teacher saw."""
    folder.mkdir(parents=True, exist_ok=True)
    palette = [channel for color in space.colors for channel in color]
    palette = palette + [0] * (768 - len(palette))
    for labels, batch in found:
        full = labels.resize((batch.image.shape[-2], batch.image.shape[-1]))
        for label, weight, index in zip(full.labels.cpu(), full.weight.cpu(), batch.index.tolist(), strict=True):
            stem = file_stem(index, str(names[index]) if names else "")
            mask = Image.fromarray(label.to(torch.uint8).numpy(), mode="P")
            mask.putpalette(palette)
            mask.save(folder / f"{stem}.png")
            Image.fromarray((weight * 255).round().to(torch.uint8).numpy()).save(folder / f"{stem}.weight.png")


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
