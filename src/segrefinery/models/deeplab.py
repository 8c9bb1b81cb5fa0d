"""DeepLab-v2 on ResNet-101 at output stride 8, the network of the papers from AdaptSegNet to CPSL."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.pixels import AS_THEY_ARE, IMAGENET
from segrefinery.models.padding import unpad
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.settings import DeepLabV2Settings
from segrefinery.models.states import downloaded, load_state, read_state


class ResNet101(nn.Module):
    """torchvision's ResNet-101 without its classifier, dilated to output stride 8; its four stages' outputs.

    Strides 4, 8, 8, 8. All blocks of layer3 have dilation 2, all of layer4 dilation 4.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, pretrained: bool, caffe_stride: bool = False, ceil_pooling: bool = True) -> None:
        super().__init__()
        from torchvision.models import ResNet101_Weights, resnet101  # here, for it takes seconds to import

        network = resnet101(replace_stride_with_dilation=[False, True, True])
        self.conv1, self.bn1, self.relu = network.conv1, network.bn1, network.relu
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_pooling)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            for block in layer:
                middle: Any = block.conv2
                middle.dilation = middle.padding = (dilation, dilation)
        if caffe_stride:
            first: Any = self.layer2[0]
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        if pretrained:
            url = ResNet101_Weights.IMAGENET1K_V1.url
            state = read_state(downloaded(url))
            load_state(self, {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}, url)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            levels.append(x)
        return levels


class ASPP(nn.Module):
    """DeepLab-v2's classifier: the sum of 3x3 convolutions with the dilations 6, 12, 18 and 24."""

    def __init__(self, channels: int, num_classes: int, bug_compat: bool = False) -> None:
        super().__init__()
        self.width = channels
        dilations = (6, 12) if bug_compat else (6, 12, 18, 24)
        branches = [nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate) for rate in dilations]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the features they were read from."""
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0), x


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate that is read from the mean of all."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]


class SEHead(nn.Module):
    """The head that ProDA and CPSL really used (22,563,408 parameters at 19 classes).

    Five branches (1x1, and 3x3 of dilation 6, 12, 18, 24) to 256 channels with group norm, squeeze-excitation over
    their concatenation, a 3x3 bottleneck to 256 channels without activation, dropout, and a classifier without bias.
    """

    width = 256

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        width = self.width
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 3 if dilation else 1, padding=dilation, dilation=dilation or 1),
                nn.GroupNorm(32, width),
                nn.ReLU(inplace=True),
            )
            for dilation in (0, 6, 12, 18, 24)
        )
        self.excitation = SqueezeExcitation(len(self.branches) * width)
        self.bottleneck = nn.Sequential(
            nn.Conv2d(len(self.branches) * width, width, 3, padding=1), nn.GroupNorm(32, width)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the 256-d features, taken after the dropout as in the papers' code."""
        joined = self.excitation(torch.cat([branch(x) for branch in self.branches], dim=1))
        features = self.dropout(self.bottleneck(joined))
        return self.classifier(features), features


class DeepLabV2(Segmenter):
    """ResNet-101, one of two heads on layer4, and an auxiliary classifier on layer3.

    ``feature_channels`` is 2048 with ``aspp``, whose classifier reads layer4 itself, and 256 with ``se``.
    """

    largest_stride = 8
    channels_last = True

    def __init__(self, num_classes: int, settings: DeepLabV2Settings | None = None, pretrained: bool = False) -> None:
        super().__init__()
        self.settings = settings = settings or DeepLabV2Settings()
        self.normalization = IMAGENET if settings.normalized else AS_THEY_ARE
        self.encoder = ResNet101(pretrained, settings.caffe_stride, settings.ceil_pooling)
        middle, deep = self.encoder.channels[-2:]
        if settings.head == "se":
            self.head: ASPP | SEHead = SEHead(deep, num_classes, settings.dropout)
        else:
            self.head = ASPP(deep, num_classes, settings.aspp_bug_compat)
        self.auxiliary = ASPP(middle, num_classes, settings.aspp_bug_compat) if settings.auxiliary else None
        # Whether the border is repeated depends on the size (see ``_levels``), and a graph has one way.
        self.graph_multiple = 8 if settings.ceil_pooling else 1
        self.num_classes = num_classes
        self.feature_channels = self.head.width
        self.level_channels = self.encoder.channels
        self.learner_channels = (self.head.width, middle) if settings.auxiliary else (self.head.width,)
        if settings.batch_norm != "train":
            for module in self._batch_norms():
                module.requires_grad_(False)

    def _batch_norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.encoder.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> DeepLabV2:
        super().train(mode)
        if self.settings.batch_norm == "frozen":
            for module in self._batch_norms():
                module.eval()
        return self

    def _levels(self, image: Tensor) -> list[Tensor]:
        """The encoder's levels. With ``ceil_pooling`` cells lie at the pixels 0, 8, ...; where the last of them would
        not be the image's last pixel or the one after it, the border is repeated and the grid cut back."""
        size = image.shape[-2:]
        if not self.settings.ceil_pooling or all(side % 8 in (0, 1) for side in size):
            return self.encoder(image)
        padded = F.pad(image, (0, (1 - size[1]) % 8, 0, (1 - size[0]) % 8), mode="replicate")
        return [unpad(level, padded.shape[-2:], size, aligned=True) for level in self.encoder(padded)]

    def forward(self, image: Tensor) -> Prediction:
        levels = self._levels(image)
        aligned = self.settings.ceil_pooling
        learners = [Learner(*self.head(levels[-1]), aligned=aligned)]
        if self.auxiliary is not None:
            learners.append(Learner(*self.auxiliary(levels[-2]), aligned=aligned))
        return Prediction.of(learners, levels)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())
