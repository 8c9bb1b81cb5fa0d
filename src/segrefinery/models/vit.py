"""Plain vision transformers of timm, DINOv2 and DINOv3 among them, under a light multi-level head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.resize import bilinear
from segrefinery.models.encoders import Encoder, EncoderHead, create_timm, timm_normalization
from segrefinery.models.heads import conv_norm, initialise
from segrefinery.models.settings import ViTSettings

_WIDTH = 256


class PlainEncoder(Encoder):
    """Token maps after four evenly spaced blocks, each through the final norm, as B x D x ceil(H/P) x ceil(W/P) for
    patches of P pixels."""

    def __init__(self, name: str, pretrained: bool, settings: ViTSettings) -> None:
        super().__init__()
        another = SegRefineryError(
            f"{name!r} is no plain vision transformer for images of any size; one of several levels is daformer:{name}"
        )
        try:
            network: Any = create_timm(
                name, pretrained, num_classes=0, dynamic_img_size=True, drop_path_rate=settings.drop_path
            )
        except SegRefineryError as error:
            raise (another if isinstance(error.__cause__, TypeError) else error) from error.__cause__
        if not hasattr(network, "forward_intermediates") or not hasattr(network, "blocks"):
            raise another
        depth = len(network.blocks)
        self.taken = [depth * i // 4 - 1 for i in range(1, 5)]
        network.prune_intermediate_layers(self.taken, prune_head=True)  # what only classifies whole images
        network.set_grad_checkpointing(settings.checkpointing)
        # Not the patch's size: a convolutional stem may come before.
        self.largest_stride = self.multiple = network.feature_info[-1]["reduction"]
        self.channels = (network.embed_dim,) * 4
        self.normalization = timm_normalization(name)
        self.network = network

    def levels(self, image: Tensor) -> list[Tensor]:
        network: Any = self.network
        return network.forward_intermediates(image, indices=self.taken, norm=True, intermediates_only=True)


class LightHead(nn.Module):
    """All levels joined by a 1x1 convolution, then as often as asked: twice the size and a 3x3 convolution."""

    def __init__(self, channels: tuple[int, ...], num_classes: int, settings: ViTSettings) -> None:
        super().__init__()
        self.width = _WIDTH
        doublings = settings.upsample.bit_length() - 1
        relus = [True] * doublings + [settings.relu]
        self.fusion = conv_norm(sum(channels), _WIDTH, norm=settings.norm, relu=relus[0])
        self.finer = nn.ModuleList(
            conv_norm(_WIDTH, _WIDTH, kernel=3, norm=settings.norm, relu=relu) for relu in relus[1:]
        )
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(_WIDTH, num_classes, 1)
        initialise(self, self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and the features they read."""
        x = self.fusion(torch.cat(list(levels), dim=1))
        for convolution in self.finer:
            x = convolution(bilinear(x, (2 * x.shape[-2], 2 * x.shape[-1])))
        features = self.dropout(x)
        return self.classifier(features), features


def vit(num_classes: int, settings: ViTSettings, pretrained: bool, encoder: str) -> EncoderHead:
    """A plain vision transformer by timm's name, and the light head; an auxiliary classifier is on the third level."""
    levels = PlainEncoder(encoder, pretrained, settings)
    return EncoderHead(levels, LightHead(levels.channels, num_classes, settings), num_classes, settings)
