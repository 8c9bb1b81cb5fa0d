"""The mean of a loss over the pixels of enlarged maps, without the enlarged maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrefinery.core.precision import wide
from segrefinery.core.resize import resample, tents

STRIP = {"cpu": 2**19, "cuda": 2**26}
"""Numbers of an enlarged map at a time: what a core's cache holds, or what keeps a GPU busy."""
FEWEST_ROWS = 8


def mean_over_pixels(
    loss: Callable[..., Tensor], maps: Sequence[Tensor], pixels: Sequence[Tensor | None], aligned: bool = False
) -> Tensor:
    """The mean of ``loss(*maps, *pixels)`` with the maps enlarged to the size of the pixels (bilinear).

    They are enlarged some rows at a time, and the gradient of these rows is computed while they are at hand.

    Args:
        loss: of maps B x C x r x W and pixels B x r x W, for any r rows -> B x r x W.
        maps: B x C x h x w each; computed in float32 or better. The gradient reaches them alone.
        pixels: labels, weights: B x H x W each, or None but for the first.
        aligned: as in ``core.resize.bilinear``.

    Raises:
        ValueError: pixels that want a gradient.
    """
    if any(each is not None and each.requires_grad for each in pixels):
        raise ValueError("labels and weights have no gradient here; detach them")
    first = pixels[0]
    assert first is not None
    width = first.shape[2]
    with torch.autocast(first.device.type, enabled=False):
        maps = [wide(each) for each in maps]
        maps = [each if each.shape[3] == width else resample(each, 3, width, aligned=aligned) for each in maps]
        return _Mean.apply(loss, pixels, aligned, torch.is_grad_enabled(), *maps)


class _Mean(torch.autograd.Function):
    """Of maps B x C x h x W, which are as wide as the pixels already."""

    @staticmethod
    def forward(ctx: Any, loss: Any, pixels: Any, aligned: bool, learning: bool, *maps: Tensor) -> Tensor:
        height, learning = pixels[0].shape[1], learning and any(ctx.needs_input_grad)
        down = [tents(each.shape[2], height, each.device, aligned=aligned).to(each.dtype) for each in maps]
        gradients = [torch.zeros_like(each) for each in maps] if learning else []
        total = maps[0].new_zeros(())
        for rows in strips(maps[0], height):
            near = [cells_around(rows, each.shape[2], height, aligned) for each in maps]
            cells = [each[:, :, lines].detach() for each, lines in zip(maps, near, strict=True)]
            with torch.set_grad_enabled(learning):
                cells = [each.requires_grad_(learning) for each in cells]
                enlarged = [
                    each if each.shape[2] == height else weights[rows, lines] @ each
                    for each, weights, lines in zip(cells, down, near, strict=True)
                ]
                summed = loss(*enlarged, *(each if each is None else each[:, rows] for each in pixels)).sum()
            total += summed.detach()
            for part, gradient, lines in zip(torch.autograd.grad(summed, cells) if learning else (), gradients, near):
                gradient[:, :, lines] += part
        ctx.save_for_backward(*gradients)
        ctx.count = pixels[0].numel()
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return None, None, None, None, *(each * (upstream / ctx.count) for each in ctx.saved_tensors)


@torch.no_grad()
def most_probable(maps: Tensor, size: Sequence[int], aligned: bool = False) -> Tensor:
    """The class of the highest value at each pixel of maps that are not enlarged: B x C x h x w -> B x H x W int64."""
    height, width = size
    with torch.autocast(maps.device.type, enabled=False):
        maps = wide(maps)
        maps = maps if maps.shape[3] == width else resample(maps, 3, width, aligned=aligned)
        down = tents(maps.shape[2], height, maps.device, aligned=aligned).to(maps.dtype)
        classes = torch.empty(len(maps), height, width, dtype=torch.int64, device=maps.device)
        for rows in strips(maps, height):
            lines = cells_around(rows, maps.shape[2], height, aligned)
            cells = maps[:, :, lines]
            classes[:, rows] = highest(cells if maps.shape[2] == height else down[rows, lines] @ cells)
    return classes


def highest(maps: Tensor) -> Tensor:
    """The class of the highest value, the first of equal ones: (B x) C x H x W -> (B x) H x W int64."""
    return confidence_and_label(maps)[1]


def confidence_and_label(probs: Tensor) -> tuple[Tensor, Tensor]:
    """The highest value of each pixel and its class, the first of equal ones: (B x) C x H x W -> (B x) H x W twice.

    It is ``probs.max(dim=-3)``. On a processor torch's own reads the classes of a pixel one by one, three times slower,
    and its ``argmax`` seven times.
    """
    if not probs.is_cpu:
        confidence, label = probs.max(dim=-3)
        return confidence, label
    classes, most = probs.shape[-3], probs.amax(dim=-3, keepdim=True)
    precedence = torch.arange(classes, 0, -1, dtype=torch.uint8 if classes < 256 else torch.int64)[:, None, None]
    first = ((probs == most) * precedence).amax(dim=-3)
    return most.squeeze(-3), classes - first.long().clamp(min=1)  # where all are NaN, none is the highest


def strips(like: Tensor, height: int) -> Iterator[slice]:
    """The rows of a map B x C x ``height`` x W, some at a time."""
    numbers = STRIP.get(like.device.type, STRIP["cuda"])
    some = max(FEWEST_ROWS, numbers // (like.shape[0] * like.shape[1] * like.shape[3]))
    return (slice(start, min(start + some, height)) for start in range(0, height, some))


def cells_around(rows: slice, old: int, height: int, aligned: bool) -> slice:
    """The lines of a map of ``old`` ones between which these of its ``height`` rows lie; one more on each side, for
    rounding."""
    if old == height:
        return rows
    first, last = (
        row * (old - 1) / max(height - 1, 1) if aligned else (row + 0.5) * old / height - 0.5
        for row in (rows.start, rows.stop - 1)
    )
    return slice(max(int(first) - 1, 0), min(int(last) + 3, old))
