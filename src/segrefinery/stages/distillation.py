"""Distillation: a student, often one pre-trained without labels, learns from the network that adaptation left.

Hard labels of the confident pixels and KL(teacher || student), both on strong views (ProDA stages 2 and 3; CPSL).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from segrefinery.core.resize import bilinear
from segrefinery.core.settings import BUDGET
from segrefinery.data.augment import StrongViewSettings, strong_view
from segrefinery.labels import IGNORE
from segrefinery.losses import kl_divergence
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher
from segrefinery.stages.base import Stage, StageContext, StageSettings, StepBatch
from segrefinery.stages.common import LossWeights, head_losses
from segrefinery.stages.optimizers import Trained, build_optimizer, parameter_groups


class DistillationSettings(StageSettings):
    """Teach a student what the last stage's network knows; by default the student is newly built."""

    kind: Literal["distillation"] = "distillation"
    start: Literal["previous", "fresh"] = "fresh"
    """The student: a newly built network (with its pre-trained encoder, for instance a self-supervised one), or the
    teacher itself."""
    rounds: Annotated[int, BUDGET] = Field(default=1, ge=1)
    """How often the stage is repeated; the student of a round teaches the next."""
    confidence: float = Field(default=0.95, ge=0, le=1)
    """Target pixels the teacher is not surer of than this carry no hard label."""
    kl_weight: float = Field(default=1.0, ge=0)
    """Weight of KL(teacher || student)."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Take the KL as a mean over pixels, or over pixels and classes (1/C of that), for which ProDA's and CPSL's authors
    chose its weight."""
    source_weight: float = Field(default=1.0, ge=0)
    target_weight: float = Field(default=1.0, ge=0)
    weights: LossWeights = LossWeights()
    strong: StrongViewSettings | None = StrongViewSettings()
    """Photometric strong view that student and teacher see of the target; null for none."""

    @property
    def passes(self) -> float:
        return 1.0 + 1 / 3 + (1.0 if self.source_weight else 0.0)

    @property
    def repeats(self) -> int:
        return self.rounds

    def build(self, context: StageContext) -> Distillation:
        return Distillation(self, context)


@torch.no_grad()
def confident_labels(network: Segmenter | Teacher, image: Tensor, confidence: float) -> Tensor:
    """Hard labels of a network that looks at the images and at their mirror images.

    Args:
        image: B x 3 x H x W normalised.
        confidence: in [0, 1].

    Returns:
        B x H x W int64: the class of the highest mean probability, 255 where that is not above ``confidence``.
    """
    probs = network(image).logits.float().softmax(dim=1)
    probs = (probs + network(image.flip(-1)).logits.float().softmax(dim=1).flip(-1)) / 2
    labels = []
    for one in probs.split(1):  # one image at a time: C maps at full size are many times the image
        best, label = bilinear(one, image.shape[-2:]).max(dim=1)
        labels.append(label.masked_fill(best <= confidence, IGNORE))
    return torch.cat(labels)


class Distillation(Stage):
    """A student and its frozen teacher."""

    def __init__(self, settings: DistillationSettings, context: StageContext) -> None:
        super().__init__()
        self.settings = settings
        self.model = context.model
        self.teacher = Teacher(context.previous)
        self.normalization = context.normalization
        self._kept: list[Tensor] = []

    def optimizers(self) -> dict[str, Trained]:
        groups = parameter_groups(self.model, self.settings.optimizer)
        return {"model": build_optimizer(groups, self.settings.optimizer, self.settings.steps)}

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        settings, source, target = self.settings, batch.source, batch.target
        assert source is not None
        assert target is not None

        on_source = self.model(source.image)
        losses = head_losses("source", on_source, source.label, None, settings.weights)
        yield {name: settings.source_weight * loss for name, loss in losses.items()}

        label = confident_labels(self.teacher, target.image, settings.confidence)
        self._kept.append((label != IGNORE).float().mean())
        image = target.image
        if settings.strong is not None:
            image = strong_view(image, batch.generators[: len(image)], settings.strong, *self.normalization)

        student = self.model(image)
        losses = head_losses("target", student, label, None, settings.weights)
        losses = {name: settings.target_weight * loss for name, loss in losses.items()}
        if settings.kl_weight:
            share = 1.0 if settings.divisor == "pixels" else 1.0 / student.logits.shape[1]
            divergence = kl_divergence(self.teacher(image).logits, student.logits)
            losses["distillation"] = settings.kl_weight * share * divergence
        yield losses

    def numbers(self) -> dict[str, float]:
        numbers = {"label_weight": float(torch.stack(self._kept).mean())} if self._kept else {}
        self._kept.clear()
        return numbers
