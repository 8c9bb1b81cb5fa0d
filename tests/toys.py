"""Small stand-ins that every room's tests may use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.teacher import Teacher, TeacherView


class ToySegmenter(Segmenter):
    """Two levels (strides 4 and 8), a main learner on stride 4 and an auxiliary one on stride 8."""

    def __init__(self, num_classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.feature_channels = width
        self.level_channels = (width, 2 * width)
        self.learner_channels = (width, 2 * width)
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.deep = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.auxiliary = nn.Conv2d(2 * width, num_classes, 1)

    def forward(self, image: Tensor) -> Prediction:
        fine = self.stem(image).relu()
        coarse = self.deep(fine).relu()
        learners = Learner(self.classifier(fine), fine), Learner(self.auxiliary(coarse), coarse)
        return Prediction.of(learners, (fine, coarse))

    def backbone_parameters(self) -> list[nn.Parameter]:
        return [*self.stem.parameters(), *self.deep.parameters()]


def labeled(batch: int = 2, classes: int = 5, size: tuple[int, int] = (32, 48), seed: int = 0) -> LabeledBatch:
    """Random images with blocky labels, a few pixels ignored."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (batch, 1, size[0] // 8, size[1] // 8), generator=rng).float()
    label = nn.functional.interpolate(coarse, size)[:, 0].long()
    label[:, 0] = 255
    image = torch.randn(batch, 3, *size, generator=rng) + label[:, None] * 0.1
    return LabeledBatch(image, label, torch.arange(batch))


def unlabeled(batch: int = 2, size: tuple[int, int] = (32, 48), seed: int = 1) -> UnlabeledBatch:
    """Random images."""
    rng = torch.Generator().manual_seed(seed)
    return UnlabeledBatch(torch.randn(batch, 3, *size, generator=rng), torch.arange(batch))


def toy_teacher(classes: int = 5, seed: int = 0) -> Teacher:
    """A teacher of a freshly drawn toy network."""
    torch.manual_seed(seed)
    return Teacher(ToySegmenter(classes))


def toy_view(batch: int = 2, classes: int = 5, size: tuple[int, int] = (32, 48), seed: int = 0) -> TeacherView:
    """What that teacher sees."""
    target = unlabeled(batch, size, seed + 1)
    return toy_teacher(classes, seed).view(target.image, target.index)
