"""SAM's attention module: the convolution that makes the embedding, and pixel attention on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrefinery.core.precision import wide
from segrefinery.refine.pixel_attention.formulas import pixel_attention


class AttentionModule(nn.Module):
    """Pixel attention with the convolution that makes the embedding.

    The paper does not state the convolution's kernel, width and start. Ours starts at a map minus the mean of its
    channels, plus N(0, 0.01): softmax does not feel a shift of all logits, and similarity should not either.

    Args:
        channels: C of the maps it attends.
        kernel: 1 or 3; 0 = no convolution, similarity is that of the maps themselves.
        width: channels of the embedding; None = C.
    """

    def __init__(self, channels: int, kernel: int = 1, width: int | None = None) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Identity()
        if kernel:
            self.embed = nn.Conv2d(channels, width or channels, kernel, padding=kernel // 2)
            weight, bias = self.embed.parameters()
            with torch.no_grad():
                nn.init.dirac_(weight)
                weight[:channels, :, kernel // 2, kernel // 2] -= 1 / channels
                weight.add_(0.01 * torch.randn_like(weight))
                bias.zero_()

    def forward(self, maps: Tensor) -> Tensor:
        """B x C x h x w -> attended B x C x h x w, in float32 or better."""
        with torch.autocast(maps.device.type, enabled=False):
            maps = wide(maps)
            return pixel_attention(maps, self.embed(maps))
