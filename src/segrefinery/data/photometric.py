"""Colour and sharpness of one image in [0, 1]; every parameter is drawn from the generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.lazy import OnUse
from segrefinery.core.pixels import IMAGENET, PerBand
from segrefinery.core.precision import constant

IMAGENET_MEAN, IMAGENET_STD = IMAGENET
T: Any = OnUse("torchvision.transforms.v2.functional")


def normalize(image: Tensor, mean: PerBand = IMAGENET_MEAN, std: PerBand = IMAGENET_STD) -> Tensor:
    """(image - mean) / std per band; image ... x bands x H x W in [0, 1], or uint8 in [0, 255]."""
    image = image.float().div(255) if image.dtype == torch.uint8 else image
    return (image - _channels(mean, image)) / _channels(std, image)


def denormalize(image: Tensor, mean: PerBand = IMAGENET_MEAN, std: PerBand = IMAGENET_STD) -> Tensor:
    """The inverse of ``normalize``, clamped to [0, 1]."""
    return (image * _channels(std, image) + _channels(mean, image)).clamp(0, 1)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def jitter_colors(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation by factors U(1-s, 1+s) and a hue shift U(-s, s), in random order.

    Args:
        image: bands x H x W float in [0, 1]; of more than three bands the first are colours and the others stay as they
            are, of fewer all do.
        strength: s; the hue shift is at most half the colour circle.
    """
    return on_colors(lambda colors: _jittered(colors, strength, generator), image)


def on_colors(change: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """An image, bands x H x W, whose red, green and blue are changed: its first three bands, if it has so many."""
    if image.shape[0] == 3:
        return change(image)
    return image if image.shape[0] < 3 else torch.cat([change(image[:3]), image[3:]])


def _jittered(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    low, high = max(0.0, 1 - strength), 1 + strength
    brightness, contrast, saturation = (uniform(low, high, generator) for _ in range(3))
    hue = uniform(-min(strength, 0.5), min(strength, 0.5), generator)
    for operation in torch.randperm(4, generator=generator).tolist():
        if operation == 0:
            image = T.adjust_brightness(image, brightness)
        elif operation == 1:
            image = T.adjust_contrast(image, contrast)
        elif operation == 2:
            image = T.adjust_saturation(image, saturation)
        else:
            image = T.adjust_hue(image, hue)
    return image


def gaussian_blur(image: Tensor, sigma: float, kernel_size: int | None = None) -> Tensor:
    """Gaussian blur with mirrored borders.

    Sums shifted copies, rows first, then columns: on a CPU many times as fast as a convolution with one channel.

    Args:
        image: 3 x H x W float.
        sigma: standard deviation in pixels.
        kernel_size: number of taps (an even one counts as the odd one above it); None for all that float32 can tell
            from zero. Taps further than six sigma away are zero in float32 and are left out, so a wide kernel costs no
            more than a fitting one.
    """
    reach = math.ceil(6 * sigma) if kernel_size is None else min(kernel_size // 2, math.ceil(6 * sigma))
    for axis in (-2, -1):
        length = image.shape[axis]
        radius = min(reach, length - 1)
        if radius < 1:
            continue
        taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
        total = 2 * sum(taps) - taps[0]
        padded = F.pad(image, (0, 0, radius, radius) if axis == -2 else (radius, radius), mode="reflect")
        image = padded.narrow(axis, radius, length) * (taps[0] / total)
        for offset in range(1, radius + 1):
            for start in (radius - offset, radius + offset):
                image.add_(padded.narrow(axis, start, length), alpha=taps[offset] / total)
    return image


def _channels(values: PerBand, image: Tensor) -> Tensor:
    return constant(values, image).view(-1, 1, 1)
