"""DINOv2 (timm's ViT-S/B/L with patch 14, with or without register tokens) under a light multi-level head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.models.encoders import Encoder, create_timm, timm_normalization
from segrefinery.models.heads import AuxiliaryHead, conv_norm, initialise
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.settings import DINOv2Settings

_WIDTH = 256
PATCH = 14


class DINOv2Encoder(Encoder):
    """Token maps after four evenly spaced blocks, each through the final norm, as B x D x ceil(H/14) x ceil(W/14)."""

    multiple = PATCH

    def __init__(self, name: str, pretrained: bool, settings: DINOv2Settings) -> None:
        super().__init__()
        network: Any = create_timm(
            name, pretrained, num_classes=0, dynamic_img_size=True, drop_path_rate=settings.drop_path
        )
        network.set_grad_checkpointing(settings.checkpointing)
        depth = len(network.blocks)
        self.taken = [depth * i // 4 - 1 for i in range(1, 5)]
        self.channels = (network.embed_dim,) * 4
        self.normalization = timm_normalization(name)
        self.network = network

    def levels(self, image: Tensor) -> list[Tensor]:
        network: Any = self.network
        return network.forward_intermediates(image, indices=self.taken, norm=True, intermediates_only=True)


class LightHead(nn.Module):
    """All levels joined by a 1x1 convolution, then as often as asked: twice the size and a 3x3 convolution."""

    def __init__(self, channels: tuple[int, ...], num_classes: int, settings: DINOv2Settings) -> None:
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

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and the features they read."""
        x = self.fusion(torch.cat(levels, dim=1))
        for convolution in self.finer:
            x = convolution(bilinear(x, (2 * x.shape[-2], 2 * x.shape[-1])))
        features = self.dropout(x)
        return self.classifier(features), features


class DINOv2(Segmenter):
    """A DINOv2 vision transformer, its light head, and optionally an auxiliary classifier on the third level."""

    largest_stride = PATCH

    def __init__(
        self, num_classes: int, settings: DINOv2Settings | None = None, pretrained: bool = False, *, encoder: str
    ) -> None:
        super().__init__()
        settings = settings or DINOv2Settings()
        self.encoder = DINOv2Encoder(encoder, pretrained, settings)
        self.head = LightHead(self.encoder.channels, num_classes, settings)
        self.auxiliary = AuxiliaryHead(self.encoder.channels[-2], num_classes, settings) if settings.auxiliary else None
        self.num_classes = num_classes
        self.normalization = self.encoder.normalization
        self.feature_channels = self.head.width
        self.level_channels = self.encoder.channels
        self.learner_channels = (self.head.width, self.auxiliary.width) if self.auxiliary else (self.head.width,)

    def forward(self, image: Tensor) -> Prediction:
        levels = self.encoder(image)
        learners = [Learner(*self.head(levels))]
        if self.auxiliary is not None:
            learners.append(Learner(*self.auxiliary(levels[-2])))
        return Prediction.of(learners, levels)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def layer_of(self, parameter: nn.Parameter) -> int:
        """How many layers lie above an encoder parameter: 0 for the last block and the final norm, the number of
        blocks for what precedes the first one. With a rate of ``decay ** layer_of`` each layer moves less than the
        one above it.

        Raises:
            ValueError: the parameter is not the encoder's.
        """
        network: Any = self.encoder.network
        depth = len(network.blocks)
        for name, own in network.named_parameters():
            if own is parameter:
                if name.startswith("blocks."):
                    return depth - 1 - int(name.split(".")[1])
                return 0 if name.startswith("norm.") else depth
        raise ValueError(f"layer_of: a parameter of shape {tuple(parameter.shape)} that is not the encoder's")
