"""Bilinear resizing of feature maps and logits, deterministic wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.precision import wide


def bilinear(maps: Tensor, size: Sequence[int], aligned: bool = False) -> Tensor:
    """Maps at another resolution: B x C x h x w -> B x C x ``size``; ``maps`` itself at its own.

    ``aligned``: the outermost cells lie in the corner pixels (DeepLab-v2); otherwise cells tile the image.

    On a GPU torch's own operation has no deterministic gradient, and where one is asked for torch falls back on what it
    calls a slow decomposition; two small matrix products do the same.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.is_cpu or not torch.are_deterministic_algorithms_enabled():
        return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=aligned)
    for dim, length in zip((-2, -1), size, strict=True):
        if maps.shape[dim] != length:
            maps = resample(maps, dim, length, aligned=aligned)
    return maps


def nearest(values: Tensor, size: Sequence[int], aligned: bool = False) -> Tensor:
    """Labels, masks or weights B x H x W on another grid, each cell with the value of the pixel under its centre. The
    type stays.

    torch's ``nearest`` takes a cell's first pixel: half a cell off, by which a network that learned from such labels
    would say everything.
    """
    if aligned:
        for dim, length in zip((-2, -1), size, strict=True):
            last = values.shape[dim] - 1
            place = torch.linspace(0, last, length, device=values.device, dtype=torch.float64)
            values = values.index_select(dim, place.round().long())
        return values
    return F.interpolate(values[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].to(values.dtype)


def resample(maps: Tensor, dim: int, length: int, share: float = 1.0, aligned: bool = False) -> Tensor:
    """The first ``share`` of an axis at ``length`` places, each between its two neighbours; a matrix product.

    Float32 under autocast, as torch's interpolation is there; else in the type of ``maps``.
    """
    weights = tents(maps.shape[dim], length, maps.device, share, aligned)
    with torch.autocast(maps.device.type, enabled=False):
        resampled = (wide(maps).transpose(dim, -1) @ weights.to(wide(maps).dtype).T).transpose(dim, -1)
    return resampled if torch.is_autocast_enabled(maps.device.type) else resampled.to(maps.dtype)


def tents(
    old: int, length: int, device: torch.device | str | None = None, share: float = 1.0, aligned: bool = False
) -> Tensor:
    """``length`` x ``old``: how much of each cell of an axis there is at each place of ``resample``."""
    place = torch.arange(length, device=device, dtype=torch.float32)  # whole ones times an open size are no ONNX
    centre = (
        place * ((old - 1) * share / max(length - 1, 1)) if aligned else (place + 0.5) * (old * share / length) - 0.5
    )
    distance = (centre.clamp(0, old - 1)[:, None] - torch.arange(old, device=device)).abs()
    return (1 - distance).clamp(min=0)
