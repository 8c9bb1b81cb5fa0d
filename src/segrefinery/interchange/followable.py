"""What no graph for images of any size follows, put otherwise and computing the same: layers of timm, pooling to a grid
of fixed size, HRDA's boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.models.hrda import HRDA


def followable(network: nn.Module) -> nn.Module:
    """The network, in place, with such parts changed."""
    from timm.layers import pos_embed_sincos
    from timm.layers.conv2d_same import Conv2dSame

    rotary = getattr(pos_embed_sincos, "RotaryEmbeddingDinoV3", ())  # since timm 1.0.20
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv2dSame):
            network.set_submodule(name, with_fixed_padding(layer))
        elif isinstance(layer, rotary):
            with_open_grid(layer)
        elif isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in (1, (1, 1)):
            layer.__class__ = PooledByShares
        elif isinstance(layer, HRDA):
            layer.__class__ = BoxesAtOnce
    return network


def with_fixed_padding(layer: Any) -> nn.Module:
    """The padding of TensorFlow's convolutions depends on the image's size, but inside an encoder that reads multiples
    of its largest stride it is always the same."""
    sides: Any = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
    pads = [max((kernel - 1) * dilation + 1 - stride, 0) for kernel, dilation, stride in sides]
    rows, columns = ((pad // 2, pad - pad // 2) for pad in pads)
    layer.__class__ = nn.Conv2d  # whose own padding is none
    return nn.Sequential(nn.ZeroPad2d((*columns, *rows)), layer)


def with_open_grid(layer: Any) -> None:
    """DINOv3's rotary positions make a plain number of each side of the grid, which fixes it to the example's."""
    if layer.normalize_coords != "separate":
        return

    def embed(sides: list[int], no_aug: bool = False) -> Tensor:
        del no_aug  # of training
        order = sides if layer.grid_indexing == "ij" else sides[::-1]
        centres = [torch.arange(side, dtype=torch.float32) + (0.5 + layer.grid_offset) for side in order]
        places = [2 * (centre / side) - 1 for centre, side in zip(centres, order, strict=True)]
        grid = torch.stack(torch.meshgrid(places, indexing=layer.grid_indexing), dim=-1)
        sin, cos = layer._get_pos_embed_from_coords(grid.flatten(0, -2))
        return torch.cat([sin, cos], dim=-1)

    layer._create_embed = embed


class PooledByShares(nn.AdaptiveAvgPool2d):
    """Mean values over a grid of fixed size (of PSPNet and UPerNet), whose cells are as large as the image asks for."""

    def forward(self, input: Tensor) -> Tensor:
        size = self.output_size
        rows, columns = size if isinstance(size, tuple | list) else (size, size)
        sides = zip(input.shape[-2:], (rows, columns), strict=True)
        above, beside = (cell_shares(full, full if cells is None else cells) for full, cells in sides)
        return above @ input @ beside.T


def cell_shares(full: int, cells: int) -> Tensor:
    """``cells`` x ``full``: what share each place has in each cell. Cells reach over whole places, and so may share
    one."""
    places, cell = torch.arange(full), torch.arange(cells)[:, None]
    first, end = cell * full // cells, ((cell + 1) * full + cells - 1) // cells
    inside = ((first <= places) & (places < end)).float()
    return inside / inside.sum(dim=1, keepdim=True)


class BoxesAtOnce(HRDA):
    """HRDA with all boxes of an image in one batch: their number is a matter of the image's size, which a graph may
    leave open, and the network stands in it twice, however many there are."""

    def _fit(self, image: Tensor) -> Tensor:
        """Enlarges images that fit as well, so that one graph is for both."""
        return F.interpolate(image, self.fitted_size(image), mode="bilinear", align_corners=False)

    def _stride(self, image: Tensor, context: Tensor) -> int:
        """Only training asks; that the network has one was seen there."""
        return 0

    def slide(self, function: Callable[[Tensor], Sequence[Tensor]], image: Tensor, side: int) -> list[Tensor]:
        """As HRDA's; of images of open size they are no smaller than a box."""
        batch, bands, *sides = image.shape
        if any(isinstance(full, int) and full < side for full in sides):
            return super().slide(function, image, side)
        rows, columns = (box_starts(full, side) for full in sides)
        down, across = rows.shape[0], columns.shape[0]
        boxes = image.index_select(-2, box_places(rows, side)).index_select(-1, box_places(columns, side))
        boxes = boxes.reshape(batch, bands, down, side, across, side).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        wholes = []
        for part in function(boxes):
            cells = part.shape[-1]
            stride = side // cells
            part = part.unflatten(0, (batch, down, across)).permute(0, 3, 1, 4, 2, 5)
            part = part.reshape(batch, part.shape[1], down * cells, across * cells)
            above, beside = (
                box_shares(starts // stride, full // stride, cells)
                for starts, full in zip((rows, columns), sides, strict=True)
            )
            wholes.append(above @ part @ beside.T)
        return wholes


def box_starts(full: int, side: int) -> Tensor:
    """Where boxes of a side begin that lie half a side apart, the last one at the end. Of an image that is smaller than
    one the box reaches beyond it, which whoever runs the graph refuses."""
    half = side // 2
    return (torch.arange(-(-full // half) - 1) * half).clamp(max=full - side).clamp(min=0)


def box_places(starts: Tensor, side: int) -> Tensor:
    """The places in boxes, one box after the other."""
    return (starts[:, None] + torch.arange(side)).flatten()


def box_shares(starts: Tensor, full: int, side: int) -> Tensor:
    """``full`` x (boxes * side): what share each place in boxes has in each place of the whole, as much as others."""
    falls = (torch.arange(full)[:, None] == box_places(starts, side)).float()
    return falls / falls.sum(dim=1, keepdim=True)
