"""Images of any size for networks that want multiples of a patch or a stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.resize import resample


def pad_to_multiple(image: Tensor, multiple: int, square: bool = False) -> Tensor:
    """B x C x H x W padded at the bottom and the right, by repeating the border, to multiples of ``multiple``; with
    ``square`` to the smallest such square."""
    height, width = image.shape[-2:]
    # Written so that a size that a graph leaves open stays a short expression.
    rows, columns = (-(-side // multiple) * multiple for side in (height, width))
    if square:
        rows = columns = max(rows, columns)
    if differ(rows, height) or differ(columns, width):
        return F.pad(image, (0, columns - width, 0, rows - height), mode="replicate")
    return image


def pad_to_least(image: Tensor, least: int) -> Tensor:
    """B x C x H x W whose sides are no less than ``least``, padded as above. A side that a graph leaves open is taken
    to be so."""
    rows, columns = (max(least - side, 0) if isinstance(side, int) else 0 for side in image.shape[-2:])
    return F.pad(image, (0, columns, 0, rows), mode="replicate") if rows or columns else image


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
        if differ(whole, part):
            share = (part - one) / (whole - one)
            cells = -((one - x.shape[dim]) * (part - one) // (whole - one)) + one
            x = resample(x, dim, cells, share, aligned).to(x.dtype)
    return x


def differ(one: int, other: int) -> bool:
    """Whether two sizes differ; while a graph for images of any size is made, whether they may."""
    if not torch.compiler.is_exporting():
        return one != other
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return not statically_known_true(one == other)
