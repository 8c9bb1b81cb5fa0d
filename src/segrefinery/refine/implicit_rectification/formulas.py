"""IR2F's mixture of learners and its loss (Gong et al., CVPR 2023; rebuilt from abstract and introduction).

P(c|x) = sum_k w_k(x) p_k(c|x)          L(x) = -log P(y|x)

And how grids are read at any point. Coordinates are (y, x) in [-1, 1]: cell i of n has its centre at -1 + (2i + 1) / n
(the cell-centre convention), or on a grid whose outermost cells lie in the corners (``aligned``, DeepLab-v2) at
-1 + 2i / (n - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.precision import constant, wide
from segrefinery.labels import IGNORE


def mixture_nll(log_weights: Tensor, log_probs: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean over the labelled queries of -log sum_k w_k p_k(label), in log space.

    The gradient to learner k is its own cross-entropy's times its responsibility w_k p_k / sum_j w_j p_j.

    Args:
        log_weights: B x K x Q, -inf allowed for a learner that has no say; or B x K x C x Q, a weight for each class,
            and the mixture is then normalised over the classes.
        log_probs: B x K x C x Q.
        labels: B x Q int64, 255 ignored. If all are, the result is 0 and still part of the graph.
        weight: B x Q, a factor on each query's term, or None; the divisor remains the number of labels.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, learners, classes, queries = log_probs.shape
    shapes = {(batch, learners, queries), (batch, learners, classes, queries)}
    if tuple(log_weights.shape) not in shapes or labels.shape != (batch, queries):
        given = ", ".join(str(tuple(part.shape)) for part in (log_weights, log_probs, labels))
        raise ValueError(f"log_weights B x K (x C) x Q, log_probs B x K x C x Q and labels B x Q expected, got {given}")
    valid = labels != IGNORE
    index = labels.masked_fill(~valid, 0).long()[:, None]
    # Ignored queries are taken out before the logarithm of the sum, whose gradient may be NaN where all terms are -inf.
    if log_weights.ndim == 4:
        valid_only = valid[:, None, None]
        mixed = log_mixture(log_weights.masked_fill(~valid_only, 0.0), log_probs.masked_fill(~valid_only, 0.0))
        nll = -mixed.gather(1, index)[:, 0]
    else:
        of_label = wide(log_probs).gather(2, index[:, None].expand(-1, learners, -1, -1))[:, :, 0]
        nll = -(wide(log_weights) + of_label).masked_fill(~valid[:, None], 0.0).logsumexp(dim=1)
    if weight is not None:
        nll = nll * weight
    return torch.where(valid, nll, 0.0).sum() / valid.sum().clamp_min(1)


def log_mixture(log_weights: Tensor, log_probs: Tensor) -> Tensor:
    """log P: B x K x Q (or B x K x C x Q) and B x K x C x Q -> B x C x Q. With a weight for each class the sum over
    the classes is no longer 1, so it is normalised."""
    classwise = log_weights.ndim == 4
    mixed = (wide(log_weights if classwise else log_weights[:, :, None]) + wide(log_probs)).logsumexp(dim=1)
    return mixed.log_softmax(dim=1) if classwise else mixed


# -- reading grids at any point ----------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def pixel_centres(size: tuple[int, int], device: torch.device | str | None = None, aligned: bool = False) -> Tensor:
    """Coordinates of the pixels (or cells) of an H x W grid in reading order: HW x 2."""
    rows, columns = (_centres(n, aligned).to(device, non_blocking=True) for n in size)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _centres(n: int, aligned: bool) -> Tensor:
    if aligned and n > 1:
        return torch.linspace(-1, 1, n)
    return (2 * torch.arange(n, dtype=torch.float32) + 1) / n - 1


def nearest_pixel(pixels: Tensor, coordinates: Tensor) -> Tensor:
    """The value of the pixel that each point lies in: B x H x W, B x Q x 2 -> B x Q."""
    size = constant(pixels.shape[-2:], coordinates)
    place = ((coordinates + 1) / 2 * size).floor().clamp_min(0).minimum(size - 1).long()
    return pixels.flatten(1).gather(1, place[..., 0] * pixels.shape[-1] + place[..., 1])


@dataclass
class Sites:
    """Where Q queries an image lie on one learner's grid, for the T cells that each is read from.

    Attributes:
        index: B x T x Q, the cells' places in reading order.
        area: B x T x Q, the blend's weights; they sum to 1 over T.
        offset: B x T x Q x 2, the query relative to the cell's centre in half cells: within [-1, 1] inside the cell.
        inside: B x Q, whether the grid covers the query at all.
    """

    index: Tensor
    area: Tensor
    offset: Tensor
    inside: Tensor


def locate(
    coordinates: Tensor,
    size: Sequence[int],
    box: Box = WHOLE,
    ensemble: Literal["four", "nearest"] = "four",
    aligned: bool = False,
) -> Sites:
    """Find the cells around points on a grid.

    ``four`` blends the four cells around a point by the areas they do not share with it, which is continuous: a cell's
    area is 0 where it comes and goes. Beyond the outermost centres the border's cells are repeated, so that the blend
    of values is bilinear up-sampling without aligned corners. ``nearest`` takes the cell the point lies in.

    Args:
        coordinates: B x Q x 2.
        size: h and w of the grid.
        box: the part of the image that it covers: top, left, bottom, right in fractions.
        aligned: whether its outermost cells lie in the corners.
    """
    place, inside = _place(coordinates, size, box, aligned)
    if ensemble == "nearest":
        cells = _on_grid(place.round()[:, None], size)
        area = torch.ones_like(cells[..., 0])
    else:
        first = place.floor()
        shift = constant([[0, 0], [0, 1], [1, 0], [1, 1]], coordinates)[None, :, None]
        cells = _on_grid(first[:, None] + shift, size)
        part = (place - first)[:, None]
        area = torch.where(shift > 0, part, 1 - part).prod(dim=-1)
    return _sites(place, cells, area, inside, size)


def locate_jointly(
    coordinates: Tensor, sizes: Sequence[Sequence[int]], boxes: Sequence[Box], aligned: bool = False
) -> list[Sites]:
    """LIIF's joint ensemble, for comparison: every grid is read at its cells nearest to the four centres around the
    point on the finest grid of the *whole* image, and blended with that grid's areas. It jumps where the cells of
    another grid meet."""
    finest = max((size for size, box in zip(sizes, boxes, strict=True) if box == WHOLE), key=lambda size: size[0])
    guide = locate(coordinates, finest, aligned=aligned)
    centres = coordinates[:, None] - guide.offset / (_pair(coordinates, finest) - int(aligned))
    sites = []
    for size, box in zip(sizes, boxes, strict=True):
        place, inside = _place(coordinates, size, box, aligned)
        cells = _on_grid(_place(centres, size, box, aligned)[0].round(), size)
        sites.append(_sites(place, cells, guide.area, inside, size))
    return sites


def read(rows: Tensor, index: Tensor) -> Tensor:
    """Rows of a flattened grid: B x N x D, B x Q -> B x Q x D."""
    batch, cells, depth = rows.shape
    start = cells * torch.arange(batch, device=index.device)[:, None]
    # An embedding, because its backward is deterministic on a GPU too.
    return F.embedding(index + start, rows.reshape(batch * cells, depth))


def sample(grid: Tensor, sites: Sites) -> Tensor:
    """The blended value of a grid at points: B x D x h x w -> B x D x Q; bilinear for the ``four`` ensemble."""
    rows = grid.flatten(2).transpose(1, 2).contiguous()
    parts = [read(rows, i) * a[..., None] for i, a in zip(sites.index.unbind(1), sites.area.unbind(1), strict=True)]
    return torch.stack(parts).sum(dim=0).transpose(1, 2)


def _place(coordinates: Tensor, size: Sequence[int], box: Box, aligned: bool) -> tuple[Tensor, Tensor]:
    """Points in units of cells (a whole number at a cell's centre), and whether they lie in the box."""
    low, high = constant(box[:2], coordinates), constant(box[2:], coordinates)
    fraction = ((coordinates + 1) / 2 - low) / (high - low)
    inside = ((fraction >= 0) & (fraction <= 1)).all(dim=-1)
    cells = _pair(coordinates, size)
    return (fraction.clamp(0, 1) * (cells - 1) if aligned else fraction.clamp(0, 1) * cells - 0.5), inside


def _on_grid(cells: Tensor, size: Sequence[int]) -> Tensor:
    return cells.clamp_min(0).minimum(_pair(cells, size) - 1)


def _pair(like: Tensor, size: Sequence[int]) -> Tensor:
    """Height and width as a tensor, by arithmetic: a size that a graph leaves open stays open."""
    return torch.stack([like.new_ones(()) * side for side in size])


def _sites(place: Tensor, cells: Tensor, area: Tensor, inside: Tensor, size: Sequence[int]) -> Sites:
    index = (cells[..., 0] * size[1] + cells[..., 1]).long()
    return Sites(index, area, 2 * (place[:, None] - cells), inside)
