"""PRN's network: the teacher's levels and logits in, repaired logits and a judgement of the noise out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.models.heads import Norm, conv_norm


@dataclass
class Refinement:
    """What the decoder says: refined class logits B x C x h x w and noise logits B x h x w (> 0 = do not trust)."""

    logits: Tensor
    noise: Tensor


class RefinementDecoder(nn.Module):
    """Teacher's levels and class logits in, a ``Refinement`` on the logits' grid out.

    Modelled on SegFormer's all-MLP head (prn.md section 3): every level and the logits are brought to one width and one
    grid, joined, mixed by a 1 x 1 and a 3 x 3 convolution, and read by two heads. Any number of levels, any strides.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        num_classes: int,
        width: int = 256,
        norm: Norm = "batch",
        dropout: float = 0.1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.levels = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in level_channels)
        self.opinion = conv_norm(num_classes, width, norm=norm)
        self.mix = nn.Sequential(
            conv_norm((len(level_channels) + 1) * width, width, norm=norm),
            conv_norm(width, width, kernel=3, norm=norm),
            nn.Dropout2d(dropout),
        )
        self.classes = nn.Conv2d(width, num_classes, 1)
        self.noise = nn.Conv2d(width, 1, 1)
        if residual:  # starts as what it is given
            for parameter in self.classes.parameters():
                nn.init.zeros_(parameter)

    def forward(self, levels: Sequence[Tensor], logits: Tensor, aligned: bool = False) -> Refinement:
        size = logits.shape[-2:]
        read = [bilinear(project(level), size, aligned) for project, level in zip(self.levels, levels, strict=True)]
        mixed = self.mix(torch.cat([*read, self.opinion(logits)], dim=1))
        refined = self.classes(mixed).float()
        if self.residual:
            refined = refined + logits.float()
        return Refinement(refined, self.noise(mixed)[:, 0].float())
