"""Bilinear resizing of feature maps and logits, deterministic wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.precision import wide


def bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at another resolution, corners not aligned: B x C x h x w -> B x C x ``size``; ``maps`` itself at its own.

    On a GPU torch's own operation has no deterministic gradient, and where one is asked for torch falls back on what it
    calls a slow decomposition; two small matrix products do the same.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.is_cpu or not torch.are_deterministic_algorithms_enabled():
        return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
    for dim, length in zip((-2, -1), size, strict=True):
        if maps.shape[dim] != length:
            maps = resample(maps, dim, length)
    return maps


def resample(maps: Tensor, dim: int, length: int, share: float = 1.0) -> Tensor:
    """The first ``share`` of an axis at ``length`` places, each between its two neighbours; a matrix product.

    Float32 under autocast, as torch's interpolation is there; else in the type of ``maps``.
    """
    old = maps.shape[dim]
    centre = (torch.arange(length, device=maps.device) + 0.5) * (old * share / length) - 0.5
    distance = (centre.clamp(0, old - 1)[:, None] - torch.arange(old, device=maps.device)).abs()
    weights = (1 - distance).clamp(min=0)
    with torch.autocast(maps.device.type, enabled=False):
        found = (wide(maps).transpose(dim, -1) @ weights.to(wide(maps).dtype).T).transpose(dim, -1)
    return found if torch.is_autocast_enabled(maps.device.type) else found.to(maps.dtype)
