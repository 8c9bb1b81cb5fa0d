"""Distillation: a student, often one pre-trained without labels, learns from the network that adaptation left.

Hard labels of the confident pixels and KL(teacher || student), both on strong views (ProDA stages 2 and 3; CPSL).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from segrefinery.core.resize import bilinear, nearest
from segrefinery.data.augment import strong_view
from segrefinery.data.batch import MixedBatch
from segrefinery.labels import IGNORE
from segrefinery.losses import kl_divergence
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.models.teacher import Teacher
from segrefinery.refine import SourceStep, Step, TargetStep
from segrefinery.stages.base import Passes, StageContext, StepBatch
from segrefinery.stages.common import RefinedStage, from_hard_labels, head_losses, labels_losses, weighted
from segrefinery.stages.kinds import DistillationSettings


@torch.no_grad()
def confident_labels(network: Segmenter | Teacher, image: Tensor, confidence: float) -> Tensor:
    """Hard labels of a network that looks at the images and at their mirror images.

    Args:
        image: B x 3 x H x W normalised.
        confidence: in [0, 1].

    Returns:
        B x H x W int64: the class of the highest mean probability, 255 where that is not above ``confidence``.
    """
    prediction = network(image)
    probs = prediction.logits.float().softmax(dim=1)
    probs = (probs + network(image.flip(-1)).logits.float().softmax(dim=1).flip(-1)) / 2
    labels = []
    for one in probs.split(1):  # one image at a time: C maps at full size are many times the image
        best, label = bilinear(one, image.shape[-2:], prediction.aligned).max(dim=1)
        labels.append(label.masked_fill(best <= confidence, IGNORE))
    return torch.cat(labels)


class Distillation(RefinedStage):
    """A student, its frozen teacher, and refiners that add losses."""

    def __init__(self, settings: DistillationSettings, context: StageContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.teacher = Teacher(context.previous)
        self.normalization = context.normalization
        self._kept: list[Tensor] = []

    def prepare(self, passes: Passes) -> None:
        for refiner in self.chain:
            refiner.fit(self.teacher, passes.source, passes.target)

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        settings, source, target = self.settings, batch.source, batch.target
        assert target is not None

        if on_labels := labels_losses(self.model, batch, settings, settings.weights):
            yield on_labels
        seen_source, losses = self.learn_source(source, settings.source_weight, settings.weights)
        if losses and not self.chain_with_losses:
            yield losses  # frees the source's graph before the target's is built
            losses = {}

        label = confident_labels(self.teacher, target.image, settings.confidence)
        self._kept.append((label != IGNORE).float().mean())
        image = self.strong(target.image, batch.generators)

        student = self.model(image)
        losses |= weighted(settings.target_weight, head_losses("target", student, label, None, settings.weights))
        if settings.kl_weight:
            share = 1.0 if settings.divisor == "pixels" else 1.0 / student.logits.shape[1]
            divergence = kl_divergence(self.teacher(image).logits, student.logits)
            losses["distillation"] = settings.kl_weight * share * divergence
        if self.chain_with_losses:
            step = self.refined(batch, seen_source, MixedBatch.unmixed(image, label), student)
            for refiner in self.chain_with_losses:
                losses |= refiner.losses(step)
            self.micro_steps.append(step)
        yield losses

    def refined(self, batch: StepBatch, source: SourceStep, mixed: MixedBatch, student: Prediction) -> Step:
        """The step as refiners see it: the teacher's view of the weak images, and its confident labels."""
        assert batch.target is not None
        view = self.teacher.view(batch.target.image, batch.target.index)
        label = nearest(mixed.label, view.logits.shape[-2:], view.aligned)
        labels = from_hard_labels(label, torch.ones_like(label, dtype=torch.float32), self.space.num_classes)
        labels = replace(labels, aligned=view.aligned)
        return Step(
            batch.number,
            self.model,
            source,
            TargetStep(self.teacher, view, labels, mixed, student),
            strong=partial(self.strong, random=batch.generators),
            normalization=self.normalization,
            generators=batch.generators,
        )

    def strong(self, image: Tensor, random: list[torch.Generator]) -> Tensor:
        """The strong view of B x 3 x H x W normalised images; the same geometry."""
        if self.settings.strong is None:
            return image
        return strong_view(image, random[: len(image)], self.settings.strong, *self.normalization)

    def numbers(self) -> dict[str, float]:
        numbers = {"label_weight": float(torch.stack(self._kept).mean())} if self._kept else {}
        self._kept.clear()
        return numbers
