"""Images of any size for networks that want multiples of a patch or a stride."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.resize import resample


def pad_to_multiple(image: Tensor, multiple: int, square: bool = False) -> Tensor:
    """B x C x H x W padded at the bottom and the right, by repeating the border, to multiples of ``multiple``; with
    ``square`` to the smallest such square."""
    height, width = image.shape[-2:]
    if square:
        side = math.ceil(max(height, width) / multiple) * multiple
        return F.pad(image, (0, side - width, 0, side - height), mode="replicate")
    below, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


def unpad(x: Tensor, padded: Sequence[int], size: Sequence[int], aligned: bool = False) -> Tensor:
    """The part of a feature map that shows the image itself.

    Args:
        x: B x D x h x w, computed from an image of size ``padded``.
        padded, size: (H, W) of the padded and of the original image.
        aligned: whether the outermost cells lie in the corner pixels.

    Returns:
        B x D x ceil(h H / H_padded) x ceil(w W / W_padded), bilinearly resampled so that its grid spans exactly the
        original image; ``x`` itself where nothing was padded. If ``aligned``, a cell more, from corner to corner.
    """
    one = int(aligned)  # a grid from corner to corner has one cell and one pixel more than it has steps
    for dim, (whole, part) in zip((-2, -1), zip(padded, size)):
        if whole != part:
            share = (part - one) / (whole - one)
            cells = math.ceil((x.shape[dim] - one) * share - 1e-6) + one
            x = resample(x, dim, cells, share, aligned).to(x.dtype)
    return x
