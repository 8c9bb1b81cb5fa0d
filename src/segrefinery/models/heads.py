"""What the decoder heads share: a convolution block, an auxiliary classifier, and the all-linear head of SegFormer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.models.settings import HeadSettings, Norm


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    dilation: int = 1,
    groups: int = 1,
    norm: Norm = "batch",
    relu: bool = True,
) -> nn.Sequential:
    """Convolution that keeps the size, norm and ReLU; without a norm the convolution has a bias."""
    convolution = nn.Conv2d(
        inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=norm == "none"
    )
    norms = {
        "batch": lambda: [nn.BatchNorm2d(outputs)],
        "group": lambda: [nn.GroupNorm(groups_of(outputs), outputs)],
        "none": list,
    }
    return nn.Sequential(convolution, *norms[norm](), *([nn.ReLU(inplace=True)] if relu else []))


def groups_of(channels: int) -> int:
    """Of a group norm: eight channels each, or more: 32 groups at most, and as many as divide the channels."""
    return next(groups for groups in range(max(1, min(32, channels // 8)), 0, -1) if channels % groups == 0)


def joined(block: nn.Module, maps: Sequence[Tensor], size: Sequence[int], aligned: bool = False) -> Tensor:
    """``block(torch.cat([bilinear(each, size) for each in maps], dim=1))`` of a ``conv_norm`` of kernel 1: both are
    linear, so each map meets its part of the convolution on its own grid, before it is enlarged."""
    convolution, *rest = block.children()
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.kernel_size == (1, 1)
    weights = convolution.weight.split([each.shape[1] for each in maps], dim=1)
    enlarged = [bilinear(F.conv2d(each, part), size, aligned) for each, part in zip(maps, weights, strict=True)]
    mixed = torch.stack(enlarged).sum(dim=0)
    if convolution.bias is not None:
        mixed = mixed + convolution.bias[:, None, None]
    for layer in rest:
        mixed = layer(mixed)
    return mixed


def initialise(head: nn.Module, *classifiers: nn.Module) -> None:
    """Kaiming for the convolutions of a head, N(0, 0.01) for its classifiers."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for classifier in classifiers:
        for name, parameter in classifier.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)


class AuxiliaryHead(nn.Module):
    """3x3 convolution, norm, ReLU, dropout, 1x1 classifier: B x D x h x w -> logits and the features they read."""

    def __init__(self, channels: int, num_classes: int, settings: HeadSettings, width: int = 256) -> None:
        super().__init__()
        self.width = width
        self.convolution = conv_norm(channels, width, kernel=3, norm=settings.norm)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, self.classifier)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dropout(self.convolution(x))
        return self.classifier(features), features


class SegFormerHead(nn.Module):
    """SegFormer's head: every level through a linear map to ``width`` channels, brought to the finest grid, joined by
    one more linear map with norm and ReLU (Xie et al. 2021, eq. 4).

    With ``width`` 256 it is also the scale attention of HRDA. With ``level_norm`` a norm and a ReLU follow each level's
    linear map, as in mmsegmentation.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, width: int, settings: HeadSettings, level_norm: bool = False
    ) -> None:
        super().__init__()
        self.width, self.level_norm = width, level_norm
        self.embeddings = nn.ModuleList(
            conv_norm(inputs, width, norm=settings.norm) if level_norm else nn.Conv2d(inputs, width, 1)
            for inputs in channels
        )
        self.fusion = self.fusion_block(len(channels) * width, width, settings)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, self.classifier)

    def fusion_block(self, inputs: int, outputs: int, settings: HeadSettings) -> nn.Module:
        """What joins the embedded levels."""
        return conv_norm(inputs, outputs, norm=settings.norm, relu=settings.relu)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and the features they read, both on the finest level's grid."""
        size = levels[0].shape[-2:]
        embedded = [bilinear(embed(x), size) for embed, x in zip(self.embeddings, levels, strict=True)]
        features = self.dropout(self.fusion(torch.cat(embedded, dim=1)))
        return self.classifier(features), features
