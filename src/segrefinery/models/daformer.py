"""DAFormer's head (Hoyer et al. 2022): SegFormer's with a context-aware fusion.

Parameters with MiT-B5 and 19 classes: embeddings 263,168, fusion 3,444,224, classifier 4,883; together 3,712,275.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segrefinery.models.heads import HeadSettings, Norm, SegFormerHead, conv_norm


class SeparableASPP(nn.Module):
    """Parallel convolutions of growing dilation, depthwise-separable but for the 1x1 one, then a 3x3 bottleneck."""

    def __init__(
        self,
        inputs: int,
        width: int,
        dilations: Sequence[int] = (1, 6, 12, 18),
        norm: Norm = "batch",
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_norm(inputs, width, norm=norm)
            if dilation == 1
            else nn.Sequential(
                conv_norm(inputs, inputs, kernel=3, dilation=dilation, groups=inputs, norm=norm),
                conv_norm(inputs, width, norm=norm),
            )
            for dilation in dilations
        )
        self.bottleneck = conv_norm(len(dilations) * width, width, kernel=3, norm=norm, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([branch(x) for branch in self.branches], dim=1))


class DAFormerHead(SegFormerHead):
    """Every level to 256 channels, then a separable ASPP (dilations 1, 6, 12, 18) over all of them at once."""

    def __init__(
        self, channels: Sequence[int], num_classes: int, settings: HeadSettings | None = None, width: int = 256
    ) -> None:
        super().__init__(channels, num_classes, width, settings or HeadSettings())

    def fusion_block(self, inputs: int, outputs: int, settings: HeadSettings) -> nn.Module:
        return SeparableASPP(inputs, outputs, norm=settings.norm, relu=settings.relu)
