"""From a picture of any size to the labels of its pixels, a strip of rows at a time and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from segrefinery.core.errors import explained_if_out_of_memory
from segrefinery.core.pixelwise import confidence_and_label
from segrefinery.data.resized import Resized
from segrefinery.data.strips import Picture
from segrefinery.data.transforms import DataSettings, evaluation_size, normalize
from segrefinery.evaluation.inference import (
    TO_NEED_LESS,
    decodes,
    device_of,
    probs_of,
    stride_of,
    windows_at_once,
)
from segrefinery.evaluation.windows import Block, Share, Size, blended, shares
from segrefinery.labels import IGNORE
from segrefinery.models.segmenter import normalization_of

LARGE = 1 << 23
"""Pixels from which a picture is seen through windows and written as it goes."""
WINDOW = 512
"""Sides of those windows, unless the crop of training is larger."""
FLOATS = 1 << 24
"""Probabilities that are held while a strip is enlarged."""
DECODED = 1 << 22
"""Pixels that a network which decodes at any resolution is asked for at once, in a window."""


@dataclass(frozen=True)
class Strip:
    """Finished rows of a picture: the first, and rows x W uint8 class ids (255 where ignored) and confidences (0..255
    for 0..1)."""

    top: int
    label: Tensor
    confidence: Tensor


def is_large(data: DataSettings, size: Size, out: Size) -> bool:
    """Whether a picture is seen strip by strip: it is large as it lies on disk, as it is read, or as it comes out."""
    return any(height * width > LARGE for height, width in (size, evaluation_size(size, data), out))


def window_for(size: Size, data: DataSettings, window: Size | None) -> Size:
    """The windows that a picture is seen through which is read at ``size``: those that are asked for, none (its own
    size) where it is small, else squares of 512 pixels or training's crops."""
    if window is None and size[0] * size[1] > LARGE:
        window = max(WINDOW, data.crop[0]), max(WINDOW, data.crop[1])
    return size if window is None else (min(window[0], size[0]), min(window[1], size[1]))


@torch.no_grad()
def label_strips(
    network: nn.Module,
    picture: Picture,
    data: DataSettings,
    window: Size | None,
    out: Size,
    first: int = 0,
    threshold: float = 0.0,
) -> Iterator[Strip]:
    """The labels of a picture at size ``out``, from top to bottom.

    In memory are a batch of windows, the rows of the picture that a row of windows shows, and where windows fade into
    each other 4 bytes a class and pixel of a strip as wide as the picture and a quarter of a window high.

    Args:
        network: a segmenter in eval mode.
        first: rows above it are not wanted; a row at which an earlier strip ended.
        threshold: what is less confident is ignored.

    Raises:
        OutOfMemory: names the picture's size and the remedy.
    """
    read_as = data.read_by(normalization_of(network))
    size = evaluation_size(picture.size, read_as)
    side = window_for(size, read_as, window)
    share = out[0] * out[1] / (size[0] * size[1])
    grid = out if decodes(network) and side[0] * side[1] * share <= DECODED else size
    down, across = (shares(*axis, stride_of(network)) for axis in zip(size, side, grid, strict=True))
    device = device_of(network)
    resized = Resized(picture, size)
    start = first if grid == out else _Between(grid[0], out[0]).lower(first)

    def look(windows: Tensor, place: Size) -> Tensor:
        return probs_of(network, normalize(windows.to(device), *read_as.normalization).contiguous(), place)

    with (
        explained_if_out_of_memory(f"an image of {picture.size[1]} x {picture.size[0]}", TO_NEED_LESS),
        read_ahead(resized.rows, [band for band in down if band.leave > start]) as rows,
    ):
        blocks = blended(look, rows, down, across, windows_at_once(side, device), start)
        best = partial(_best, threshold=threshold)
        yield from _labelled(blocks, out, best) if grid == out else _enlarged(blocks, grid, out, first, best)


@contextmanager
def read_ahead(read: Callable[[int, int], Tensor], bands: Sequence[Share]) -> Iterator[Callable[[int, int], Tensor]]:
    """Reads the rows of the next band while the network looks at one; the rows come as one image, 1 x 3 x h x W."""
    left = deque(band.window for band in bands)
    with ThreadPoolExecutor(1) as thread:
        reading = [thread.submit(read, *left.popleft())] if left else []

        def rows(top: int, bottom: int) -> Tensor:
            strip = reading.pop().result()
            if left:
                reading.append(thread.submit(read, *left.popleft()))
            return strip[None]

        yield rows


Best = Callable[[Tensor], tuple[Tensor, Tensor]]


def _labelled(blocks: Iterator[Block], out: Size, best: Best) -> Iterator[Strip]:
    """Strips of blocks that have the result's own pixels."""
    strip = None
    for block in blocks:
        label, confidence = best(block.probs[0])
        if strip is None:
            height = block.rows[1] - block.rows[0]
            strip = Strip(block.rows[0], *(torch.empty(height, out[1], dtype=torch.uint8) for _ in range(2)))
        strip.label[:, slice(*block.columns)] = label.cpu()
        strip.confidence[:, slice(*block.columns)] = confidence.cpu()
        if block.columns[1] == out[1]:
            yield strip
            strip = None


def _enlarged(blocks: Iterator[Block], size: Size, out: Size, first: int, best: Best) -> Iterator[Strip]:
    """Strips of blocks on a grid of ``size``, whose probabilities are brought to ``out`` bilinearly, rows by rows."""
    down, across = _Between(size[0], out[0]), _Between(size[1], out[1])
    above = None
    for top, band in _bands(blocks, size[1]):
        bottom = top + band.shape[-2]
        if above is not None:
            band, top = torch.cat([above, band], dim=-2), top - 1
        above = band[..., -1:, :]
        begin, end = max(first, down.first_after(top)), down.first_after(bottom - 1)
        step = max(1, FLOATS // (band.shape[0] * out[1]))
        for row in range(begin, end, step):
            rows = down.at(band, -2, slice(row, min(row + step, end)), top)
            label, confidence = best(across.at(rows, -1, slice(0, out[1]), 0))
            yield Strip(row, label.cpu(), confidence.cpu())


def _bands(blocks: Iterator[Block], width: int) -> Iterator[tuple[int, Tensor]]:
    """Blocks joined to strips of the whole width: the first row, and C x rows x width."""
    parts: list[Tensor] = []
    for block in blocks:
        parts.append(block.probs[0])
        if block.columns[1] == width:
            yield block.rows[0], torch.cat(parts, dim=-1)
            parts = []


def _best(probs: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    confidence, label = confidence_and_label(probs)
    if threshold:
        ignored = confidence < threshold
        label, confidence = label.masked_fill(ignored, IGNORE), confidence.masked_fill(ignored, 0.0)
    return label.to(torch.uint8), (confidence * 255).round().to(torch.uint8)


class _Between:
    """Where along an axis of ``size`` the pixels of one of ``out`` lie: between two of its neighbours."""

    def __init__(self, size: int, out: int) -> None:
        self.size = size
        self.place = ((torch.arange(out, dtype=torch.float64) + 0.5) * (size / out) - 0.5).clamp(0, size - 1)

    def lower(self, number: int) -> int:
        """The neighbour below pixel ``number``."""
        return int(self.place[min(number, len(self.place) - 1)])

    def first_after(self, place: int) -> int:
        """The first pixel that lies after a place, from the last place on their number."""
        if place >= self.size - 1:
            return len(self.place)
        return int((self.place <= place).sum()) if place > 0 else 0

    def at(self, values: Tensor, dim: int, pixels: slice, start: int) -> Tensor:
        """The values, which begin at the place ``start``, at the pixels."""
        place = self.place[pixels] - start
        lower = place.floor().long().clamp(0, values.shape[dim] - 1)
        upper = (lower + 1).clamp(max=values.shape[dim] - 1)
        share = (place - lower).to(values.dtype).clamp(min=0)
        shape = [-1 if axis == dim % values.ndim else 1 for axis in range(values.ndim)]
        low, high = (values.index_select(dim, index.to(values.device)) for index in (lower, upper))
        return low.lerp_(high, share.to(values.device).view(shape))
