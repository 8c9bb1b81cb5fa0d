"""``small``: a network of our own of about one million parameters, made to be trained from nothing on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.settings import SmallSettings


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, group norm (so that an image's output does not depend on its batch), ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions around which the input passes unchanged."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class Small(Segmenter):
    """Residual encoder to stride 16, global context, and a decoder back to stride 4.

    Nearly all parameters lie at the strides 8 and 16, where a convolution costs little. The auxiliary classifier has
    two convolutions of its own at stride 8, so that it is a second learner and not a copy of the first.
    """

    def __init__(self, num_classes: int, settings: SmallSettings | None = None) -> None:
        super().__init__()
        settings = settings or SmallSettings()
        fine, middle, deep = settings.width, 2 * settings.width, 4 * settings.width
        self.num_classes = num_classes
        self.feature_channels = middle
        self.level_channels = (fine, middle, deep)
        self.learner_channels = (middle, middle)

        self.stem = nn.Sequential(_conv(3, fine // 2, stride=2), _conv(fine // 2, fine, stride=2), _Residual(fine))
        self.stage8 = nn.Sequential(_conv(fine, middle, stride=2), *(_Residual(middle) for _ in range(settings.blocks)))
        self.stage16 = nn.Sequential(
            _conv(middle, deep, stride=2), *(_Residual(deep, dilation=2**i) for i in range(settings.blocks))
        )
        self.context = nn.Conv2d(deep, deep, 1)

        self.reduce = nn.ModuleList(nn.Conv2d(channels, middle, 1) for channels in self.level_channels)
        self.fuse8 = _conv(middle, middle)
        self.fuse4 = _conv(middle, middle)
        self.auxiliary = nn.Sequential(_conv(middle, middle), _conv(middle, middle, dilation=2))
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(middle, num_classes, 1)
        self.aux_classifier = nn.Conv2d(middle, num_classes, 1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Every block starts as the identity, and every class about equally likely.
        for module in self.modules():
            if isinstance(module, _Residual):
                nn.init.zeros_(module.norm.weight)
        nn.init.normal_(self.classifier.weight, std=0.1)
        nn.init.normal_(self.aux_classifier.weight, std=0.1)

    def forward(self, image: Tensor) -> Prediction:
        level4 = self.stem(image)
        level8 = self.stage8(level4)
        level16 = self.stage16(level8)
        deep = level16 + self.context(level16.mean(dim=(2, 3), keepdim=True))

        x = self.reduce[1](level8) + bilinear(self.reduce[2](deep), level8.shape[-2:])
        x = self.reduce[0](level4) + bilinear(self.fuse8(x), level4.shape[-2:])
        features = self.dropout(self.fuse4(x))
        aux_features = self.dropout(self.auxiliary(level8))
        learners = (
            Learner(self.classifier(features), features),
            Learner(self.aux_classifier(aux_features), aux_features),
        )
        return Prediction.of(learners, (level4, level8, level16))


def build(num_classes: int, settings: SmallSettings, pretrained: bool) -> Small:
    """``small`` with random weights; there are no others."""
    del pretrained
    return Small(num_classes, settings)
