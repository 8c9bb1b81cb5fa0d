"""Data sets in memory."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator


class MemoryTarget:
    """Images whose pixels name their place, so that a test can see what a transform did. No labels."""

    has_labels = False
    space = SimpleNamespace(num_classes=5)

    def __init__(self, sizes: list[tuple[int, int]], broken: int | None = None) -> None:
        self.sizes, self.broken = sizes, broken
        self.reads = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        return f"{index:04d}"

    def image(self, index: int) -> Tensor:
        self.reads += 1
        if index == self.broken:
            raise SegRefineryError(f"{index:04d}.png is truncated; download it again.")
        return torch.randint(0, 256, (3, *self.sizes[index]), dtype=torch.uint8, generator=generator("image", index))


class MemorySource(MemoryTarget):
    """The same with labels in blocks of 8 pixels, the top row ignored."""

    has_labels = True

    def label(self, index: int) -> Tensor:
        height, width = self.sizes[index]
        coarse = torch.randint(0, 5, (height // 8 + 1, width // 8 + 1), generator=generator("label", index))
        label = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width].clone()
        label[0] = 255
        return label


class MemoryPseudo(MemoryTarget):
    """Images with our teacher's labels, written at half the size."""

    def pseudo(self, index: int) -> tuple[Tensor, Tensor]:
        height, width = (side // 2 for side in self.sizes[index])
        label = torch.full((height, width), index)
        label[:, width // 2 :] = 255
        return label, torch.where(label == 255, 0, 128).to(torch.uint8)
