"""A tether: the student may not drift far from the network it started as, on the images it adapts to.

Without labels nothing else recalls what a model knew. The loss is that of learning without forgetting (Li & Hoiem, ECCV
2016): KL(reference || student) on what the student sees of the target.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.losses import kl_divergence
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher
from segrefinery.refine.base import Refiner, Step
from segrefinery.refine.settings import TetherSettings


class Tether(Refiner):
    """Leaves labels alone and adds the loss. ``reference`` is the network at the first ``fit``: later generations stay
    tied to the same one."""

    tied: Tensor

    def __init__(self, segmenter: Segmenter, settings: TetherSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or TetherSettings()
        self.reference = copy.deepcopy(segmenter).requires_grad_(False)
        self.register_buffer("tied", torch.tensor(False))
        self.train(False)

    def train(self, mode: bool = True) -> Tether:
        """The reference never trains, whatever mode the stage around it is in."""
        del mode
        return super().train(False)

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        if not self.tied:
            self.reference.load_state_dict(teacher.network.state_dict())
            self.tied.fill_(True)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if step.target is None or not self.settings.weight:
            return {}
        with torch.no_grad():
            before = self.reference(step.target.mixed.image)
        return {"tether": self.settings.weight * kl_divergence(before.logits, step.target.prediction.logits)}
