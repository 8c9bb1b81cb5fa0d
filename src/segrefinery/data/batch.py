"""The kinds of batch. A target batch has no field for reference labels, so none can leak into training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from segrefinery.labels import IGNORE


@dataclass
class _Batch:
    def to(self, device: torch.device | str) -> Self:
        """A copy whose tensors lie on ``device``; from pinned memory it is made while the program goes on."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)}
        return type(self)(**moved)

    def pin_memory(self) -> Self:
        """A copy in memory that a GPU reads directly; torch's loader asks for it."""
        return type(self)(**{field.name: getattr(self, field.name).pin_memory() for field in fields(self)})

    def __getitem__(self, part: slice) -> Self:
        """Some of the images."""
        return type(self)(**{field.name: getattr(self, field.name)[part] for field in fields(self)})

    def __len__(self) -> int:
        return len(getattr(self, "image"))  # noqa: B009


@dataclass
class LabeledBatch(_Batch):
    """Source images: image B x 3 x H x W normalised, label B x H x W int64 (255 ignored), index B."""

    image: Tensor
    label: Tensor
    index: Tensor


@dataclass
class TranslatedBatch(LabeledBatch):
    """Source images beside their translations: translated B x 3 x H x W normalised, the same crops of them."""

    translated: Tensor


@dataclass
class UnlabeledBatch(_Batch):
    """Target images: image B x 3 x H x W normalised, index B."""

    image: Tensor
    index: Tensor


@dataclass
class PseudoLabeledBatch(_Batch):
    """Target images with our own teacher's labels: label B x H x W int64 (255 ignored), weight B x H x W in [0, 1]."""

    image: Tensor
    label: Tensor
    weight: Tensor
    index: Tensor


@dataclass
class MixedBatch(_Batch):
    """What a student learns the target from: target images, over which parts of the source may be pasted.

    Attributes:
        image: B x 3 x H x W normalised.
        label: B x H x W int64 (255 ignored): the source's true label where it was pasted, else the refined one.
        weight: B x H x W in [0, 1]; 1 where the source was pasted.
        pasted: B x H x W bool, True where the image shows the source.
    """

    image: Tensor
    label: Tensor
    weight: Tensor
    pasted: Tensor

    @classmethod
    def unmixed(cls, image: Tensor, label: Tensor) -> MixedBatch:
        """Target images as they are; a label teaches wherever it is not ignored."""
        return cls(image, label, (label != IGNORE).float(), torch.zeros_like(label, dtype=torch.bool))

    @property
    def target_label(self) -> Tensor:
        """B x H x W int64: the labels of the target's own pixels that teach something; 255 at all others."""
        return self.label.masked_fill(self.pasted | (self.weight <= 0), IGNORE)
