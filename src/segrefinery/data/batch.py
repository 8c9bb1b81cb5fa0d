"""The kinds of batch. A target batch has no field for reference labels, so none can leak into training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


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
