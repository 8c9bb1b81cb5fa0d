"""Pixel statistics: how the images that a network reads are normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PerBand = tuple[float, ...]
"""A number for each band of an image; for red, green and blue unless a data set names others."""


class Normalization(NamedTuple):
    """Mean and standard deviation of each band in [0, 1]; a network reads (image - mean) / std."""

    mean: PerBand
    std: PerBand


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AS_THEY_ARE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def renormalize(image: Tensor, given: Normalization, wanted: Normalization) -> Tensor:
    """Images ... x bands x H x W that are normalised as ``given``, normalised as ``wanted``."""
    mean, std, new_mean, new_std = (image.new_tensor(triple)[:, None, None] for triple in (*given, *wanted))
    return (image * std + mean - new_mean) / new_std


def shown(image: Tensor) -> Tensor:
    """What a person is shown of an image ... x bands x H x W: its first three bands, or the first as grey."""
    return image[..., :3, :, :] if image.shape[-3] >= 3 else image[..., :1, :, :].expand(*image.shape[:-3], 3, -1, -1)
