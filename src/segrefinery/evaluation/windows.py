"""Overlapping windows of an image: where they lie, and how what is seen in them becomes one map, block by block.

Along each axis two neighbours share their overlap so: its outer quarters, where the context is cut off, belong to the
other window alone, and in its middle half one fades into the other by a squared sine. So every pixel is seen by one
window, or along an axis by two whose weights add up to one, and a network that sees no further than a quarter of the
overlap says what it says of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Size = tuple[int, int]

OVERLAP = 0.5
"""Share of a window that it has in common with each of its neighbours, at least."""


@dataclass(frozen=True)
class Share:
    """One window along one axis, and its part in the result, whose length may be another than the image's.

    Attributes:
        window: start and stop in the image. place: the same in the result.
        begin, finish, leave: in the result: where its part begins, up to where the result is finished with it, and
            where its part ends; from ``finish`` on the next window has a part too.
        weights: of the pixels from ``begin`` to ``leave``.
    """

    window: tuple[int, int]
    place: tuple[int, int]
    begin: int
    finish: int
    leave: int
    weights: Tensor


@dataclass(frozen=True)
class Block:
    """A finished part of the result: B x C probabilities of the rows and columns (start, stop)."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    probs: Tensor


def window_starts(length: int, window: int, multiple: int = 1, overlap: float = OVERLAP) -> list[int]:
    """Starts of windows that cover ``length`` and overlap by ``overlap`` of a window at least.

    Args:
        multiple: of pixels that they start at (a network's stride), so that its cells lie as in the whole image. The
            last window then ends at the border and may be shorter by less than this.
    """
    if length <= window:
        return [0]
    step = max(int(window * (1 - overlap)) // multiple * multiple, multiple)
    last = -(-(length - window) // multiple) * multiple
    return [*range(0, last, step), last]


def shares(length: int, window: int, out: int, multiple: int = 1) -> list[Share]:
    """The windows along an axis of ``length`` pixels, and how they share a result of ``out``."""
    if multiple * 4 > window:
        multiple = 1
    windows = [(start, min(start + window, length)) for start in window_starts(length, window, multiple)]
    places = [(round(start * out / length), round(stop * out / length)) for start, stop in windows]
    middles = [0, *((one[1] + two[0]) // 2 for one, two in pairwise(places)), out]
    fades = [(0, 0)]
    for number, (one, two) in enumerate(pairwise(places), start=1):
        room = min(middles[number] - middles[number - 1], middles[number + 1] - middles[number]) // 2
        half = max(0, min((one[1] - two[0]) // 4, room))
        fades.append((middles[number] - half, middles[number] + half))
    fades.append((out, out))
    parts = []
    for window_of, place, before, after in zip(windows, places, fades[:-1], fades[1:], strict=True):
        weights = torch.ones(after[1] - before[0])
        weights[: before[1] - before[0]] = _rising(before[1] - before[0])
        weights[after[0] - before[0] :] = 1 - _rising(after[1] - after[0])
        parts.append(Share(window_of, place, before[0], after[0], after[1], weights))
    return parts


def _rising(length: int) -> Tensor:
    return torch.sin((torch.arange(length) + 0.5) * (math.pi / 2 / max(length, 1))) ** 2


def blended(
    look: Callable[[Tensor, Size], Tensor],
    rows: Callable[[int, int], Tensor],
    down: Sequence[Share],
    across: Sequence[Share],
    batch: int = 1,
    first: int = 0,
) -> Iterator[Block]:
    """What is seen in windows as one map, in finished blocks: from top to bottom, and from left to right.

    Beside the windows of one batch only what neighbours share is kept: a strip as wide as the result and half the
    overlap high.

    Args:
        look: N x 3 x h x w windows and the size of their place -> N x C x size probabilities.
        rows: first row and the one after the last -> those rows of B images, B x 3 x h x W; asked from top to bottom.
        down, across: the windows, of ``shares``.
        batch: windows that are looked at together, at most.
        first: rows of the result above it are not wanted; windows that lie above it alone are left out.
    """
    strip, above = None, 0
    for band in down:
        if band.leave <= first:
            continue
        beside = None
        for column, probs in _looks_along(look, rows(*band.window), band, across, batch):
            top, left = band.place[0], column.place[0]
            part = probs[..., band.begin - top : band.leave - top, column.begin - left : column.leave - left]
            part = part * (band.weights[:, None] * column.weights).to(part.device)
            if beside is not None:
                part[..., : beside.shape[-1]] += beside
            width = column.finish - column.begin
            beside, done = part[..., width:].clone(), part[..., :width]
            if strip is None:
                highest = max(share.leave - share.finish for share in down)
                strip = done.new_zeros(*done.shape[:2], highest, across[-1].leave)
            kept = strip[..., column.begin : column.finish]
            done[..., :above, :] += kept[..., :above, :]
            kept[..., : band.leave - band.finish, :] = done[..., band.finish - band.begin :, :]
            if band.finish > max(band.begin, first) and width:
                yield Block(
                    (band.begin, band.finish),
                    (column.begin, column.finish),
                    done[..., : band.finish - band.begin, :],
                )
        above = band.leave - band.finish


def _looks_along(
    look: Callable[[Tensor, Size], Tensor], image: Tensor, band: Share, across: Sequence[Share], batch: int
) -> Iterator[tuple[Share, Tensor]]:
    """Each window of a row of them, and what is seen there."""
    # A place of no pixel, where the result is far smaller than the image, belongs to the neighbours.
    columns = [share for share in across if share.leave > share.begin] if band.leave > band.begin else []
    height = band.place[1] - band.place[0]
    while columns:
        alike = [share for share in columns[:batch] if _widths(share) == _widths(columns[0])]
        parts = torch.cat([image[..., slice(*share.window)] for share in alike])
        probs = look(parts, (height, _widths(alike[0])[1]))
        yield from zip(alike, probs.split(len(image)), strict=True)
        columns = columns[len(alike) :]


def _widths(share: Share) -> Size:
    """Of its window, and of its place."""
    return share.window[1] - share.window[0], share.place[1] - share.place[0]
