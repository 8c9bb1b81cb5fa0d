"""The discriminator that tells source from target by the shape of a prediction."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

STRIDE = 32
"""Pixels of the input per score; an input needs at least one score's worth on each side."""


class Discriminator(nn.Module):
    """Five convolutions, kernel 4, stride 2, padding 1: C -> w -> 2w -> 4w -> 8w -> 1, LeakyReLU 0.2, no norm.

    The fully convolutional discriminator of AdaptSegNet (Tsai et al., CVPR 2018, section 4.1), with w = 64.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, stride=2, padding=1))

    def draw(self) -> None:
        """Draw new weights from the global generator."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()

    def forward(self, prediction: Tensor) -> Tensor:
        """B x C x H x W -> logits B x 1 x H/32 x W/32: how much each place looks like the target.

        Raises:
            ValueError: a side shorter than 32.
        """
        if min(prediction.shape[-2:]) < STRIDE:
            raise ValueError(f"prediction: at least {STRIDE} x {STRIDE} expected, got {tuple(prediction.shape)}")
        return self.layers(prediction)
