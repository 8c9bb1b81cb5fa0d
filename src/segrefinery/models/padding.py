"""Images of any size for networks that want multiples of a patch or a stride."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """B x C x H x W padded at the bottom and the right, by repeating the border, to multiples of ``multiple``."""
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


def unpad(x: Tensor, padded: Sequence[int], size: Sequence[int]) -> Tensor:
    """The part of a feature map that shows the image itself.

    Args:
        x: B x D x h x w, computed from an image of size ``padded``.
        padded, size: (H, W) of the padded and of the original image.

    Returns:
        B x D x ceil(h H / H_padded) x ceil(w W / W_padded), bilinearly resampled so that its grid spans exactly the
        original image; ``x`` itself where nothing was padded.
    """
    for dim, (whole, part) in zip((-2, -1), zip(padded, size)):
        if whole != part:
            x = _take(x, dim, part / whole)
    return x


def _take(x: Tensor, dim: int, share: float) -> Tensor:
    """Resample the first ``share`` of an axis: a small matrix product, so its gradient is deterministic everywhere."""
    old = x.shape[dim]
    new = math.ceil(old * share - 1e-6)
    centre = (torch.arange(new, device=x.device) + 0.5) * (old * share / new) - 0.5
    distance = (centre.clamp(0, old - 1)[:, None] - torch.arange(old, device=x.device)).abs()
    weights = (1 - distance).clamp(min=0)
    with torch.autocast(x.device.type, enabled=False):
        return (x.float().transpose(dim, -1) @ weights.T).transpose(dim, -1).to(x.dtype)
