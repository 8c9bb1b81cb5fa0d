"""Pixel statistics: how the images that a network reads are normalised."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Triple = tuple[float, float, float]


class Normalization(NamedTuple):
    """Mean and standard deviation of red, green and blue in [0, 1]; a network reads (image - mean) / std."""

    mean: Triple
    std: Triple


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def renormalize(image: Tensor, given: Normalization, wanted: Normalization) -> Tensor:
    """Images ... x 3 x H x W that are normalised as ``given``, normalised as ``wanted``."""
    mean, std, new_mean, new_std = (image.new_tensor(triple)[:, None, None] for triple in (*given, *wanted))
    return (image * std + mean - new_mean) / new_std
