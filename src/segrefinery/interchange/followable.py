"""Layers of timm that no graph for images of any size follows, put otherwise; they compute the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def followable(network: nn.Module) -> nn.Module:
    """The network, in place, with such layers changed."""
    from timm.layers import pos_embed_sincos
    from timm.layers.conv2d_same import Conv2dSame

    rotary = getattr(pos_embed_sincos, "RotaryEmbeddingDinoV3", ())  # since timm 1.0.20
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv2dSame):
            network.set_submodule(name, with_fixed_padding(layer))
        elif isinstance(layer, rotary):
            with_open_grid(layer)
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
