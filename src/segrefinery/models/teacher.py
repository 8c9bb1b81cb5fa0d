"""The teacher: an exponential moving average of the student, and what it sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segrefinery.models.batch_norm import batch_norms
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.models.settings import TeacherSettings


@dataclass
class TeacherView(Prediction):
    """What the teacher said of a batch of images; nothing in it carries a gradient.

    Attributes:
        image: B x bands x H x W, the weak view.
        index: B, the images' places in their data set.
    """

    image: Tensor = field(kw_only=True)
    index: Tensor | None = field(default=None, kw_only=True)

    @property
    def probs(self) -> Tensor:
        """B x C x h x w softmax of the logits, in float32."""
        return self.logits.float().softmax(dim=1)


class Teacher(nn.Module):
    """Exponential moving average of a segmenter's parameters and buffers; part of every checkpoint."""

    def __init__(self, student: Segmenter, settings: TeacherSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or TeacherSettings()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        """The teacher's mode is its own setting: whoever calls ``train`` on the stage around it does not change it."""
        del mode
        super().train(False)
        if self.settings.mode == "train":
            for norm in batch_norms(self.network):
                norm.train()
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> Prediction:
        return self.network(image)

    def view(self, image: Tensor, index: Tensor | None = None) -> TeacherView:
        """Look at a batch: B x bands x H x W normalised images."""
        return TeacherView(**vars(self(image)), image=image, index=index)

    def decay_at(self, step: int) -> float:
        """Weight of the old in the moving average after optimizer step number ``step`` (counted from 0); whatever else
        follows the student at the teacher's pace asks for it here."""
        students = step + 2  # so many there have been by now, the one before the first step included
        ramp = 1.0 - 1.0 / students if self.settings.ramp and self.settings.decay < 1 else 1.0
        return min(ramp, self.settings.decay)

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Move towards the student after optimizer step number ``step`` (counted from 0).

        Parameters and floating buffers are averaged; counters are copied.
        """
        decay = self.decay_at(step)
        if decay == 1:
            return
        new = student.state_dict()
        averaged, copied = [], []
        for name, old in self.network.state_dict().items():
            (averaged if old.is_floating_point() else copied).append((old, new[name].to(old.dtype)))
        if averaged:  # all at once: one by one they are a thousand small kernels on a GPU
            olds, news = (list(side) for side in zip(*averaged, strict=True))
            torch._foreach_lerp_(olds, news, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for old, now in copied:
            old.copy_(now)
