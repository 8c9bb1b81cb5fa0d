"""Pixel statistics: how the images that a network reads are normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PerBand = tuple[float, ...]
"""A number for each band of an image; for red, green and blue unless a data set names others."""
LARGEST_STD = 2.0
"""Nobody divides images in [0, 1] by more: their deviation is at most 0.5, and some networks read them as they are."""


class Normalization(NamedTuple):
    """Mean and standard deviation of each band in [0, 1]; a network reads (image - mean) / std."""

    mean: PerBand
    std: PerBand


def refuse_statistics(mean: PerBand | None, std: PerBand | None) -> None:
    """Refuse what cannot be the mean and deviation of images in [0, 1]; None is what nobody says.

    Raises:
        ValueError: one is none of such images, as of numbers from 0 to 255, or they are of different lengths.
    """
    remedy = "of images in [0, 1]; divide those of numbers from 0 to 255 by 255"
    if mean is not None and std is not None and len(mean) != len(std):
        raise ValueError(f"the mean has {len(mean)} numbers and the deviation {len(std)}; a band has one of each")
    if mean is not None and not all(0 <= each <= 1 for each in mean):
        raise ValueError(f"{tuple(mean)} is no mean {remedy}")
    if std is not None and not all(each > 0 for each in std):
        raise ValueError(f"{tuple(std)} is no standard deviation, which is positive")
    if std is not None and not all(each < LARGEST_STD for each in std):
        raise ValueError(f"{tuple(std)} is no standard deviation {remedy}")


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AS_THEY_ARE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def renormalize(image: Tensor, given: Normalization, wanted: Normalization) -> Tensor:
    """Images ... x bands x H x W that are normalised as ``given``, normalised as ``wanted``."""
    mean, std, new_mean, new_std = (image.new_tensor(triple)[:, None, None] for triple in (*given, *wanted))
    return (image * std + mean - new_mean) / new_std


def shown(image: Tensor) -> Tensor:
    """What a person is shown of an image ... x bands x H x W: its first three bands, or the first as grey."""
    return image[..., :3, :, :] if image.shape[-3] >= 3 else image[..., :1, :, :].expand(*image.shape[:-3], 3, -1, -1)
