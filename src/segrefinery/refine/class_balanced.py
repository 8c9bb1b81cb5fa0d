"""Class-balanced self-training: CBST, its regularised kin (CRST: MRKLD and LRENT), and IAST's thresholds.

CBST: Zou et al., ECCV 2018; CRST: Zou et al., ICCV 2019; IAST: Mei et al., ECCV 2020. Constants: their public code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from segrefinery.core.pixelwise import confidence_and_label
from segrefinery.core.resize import bilinear
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.labels import IGNORE
from segrefinery.losses import mrkld
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, Step
from segrefinery.refine.confidence import class_thresholds, confidence_histogram
from segrefinery.refine.settings import ClassBalancedSettings, InstanceAdaptiveSettings


def balanced_scores(probs: Tensor, thresholds: Tensor) -> Tensor:
    """prob_c / threshold_c, B x C x h x w: the label is the highest score, and it is kept from 1 on (CBST).

    A class with threshold 0 was never predicted; it is left at its plain probability, so that it cannot win by having
    no competitor of its own.
    """
    divisor = torch.where(thresholds > 0, thresholds, 1.0)
    return probs.float() / divisor[:, None, None]


class ClassBalanced(Refiner):
    """CBST and CRST. Thresholds are gathered by ``fit``; ``histogram`` is C x bins.

    CBST and MRKLD keep a pixel whose highest score reaches 1. LRENT keeps one whose labelled energy is below that of
    the zero label, which for its closed-form label comes down to sum_c score_c ^ (1 / temperature) > 1. Its
    ``probs`` are the soft labels; a stage that learns from the argmax uses only LRENT's choice of pixels.
    """

    histogram: Tensor

    def __init__(self, settings: ClassBalancedSettings, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("histogram", torch.zeros(num_classes, settings.bins, dtype=torch.float64))

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        self.histogram.zero_()
        for batch in target:
            self.histogram += confidence_histogram(teacher.view(batch.image).probs, self.settings.bins)

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        thresholds = class_thresholds(self.histogram, self.settings.portion, cap=1.0)
        scores = balanced_scores(labels.probs, thresholds)
        if self.settings.kind == "lrent":
            # In logarithms: scores above 1 to the fourth power and more would overflow for low temperatures.
            powers = scores.clamp(min=1e-30).log() / self.settings.temperature
            probs, kept = powers.softmax(dim=1), powers.logsumexp(dim=1) > 0
        else:
            probs, kept = scores / scores.sum(dim=1, keepdim=True), scores.amax(dim=1) >= 1
        return replace(labels, probs=probs).weighted(kept)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.settings.kind != "mrkld" or step.target is None:
            return {}
        learned = step.target.mixed.target_label != IGNORE
        prediction = step.target.prediction
        logits = bilinear(prediction.logits.float(), learned.shape[-2:], prediction.aligned)
        # CRST takes the mean over classes, where ``losses.mrkld`` takes the sum.
        return {"mrkld": self.settings.mrkld_weight / logits.shape[1] * mrkld(logits, learned)}


class InstanceAdaptive(Refiner):
    """IAST's selector. For each image in turn and each class c with threshold t_c, t'_c is the percentile
    100 (1 - alpha t_c^gamma) of the confidences of the pixels predicted c and t_c itself; t_c becomes
    momentum t_c + (1 - momentum) t'_c, at most the cap, and pixels are kept from t_c on.

    ``thresholds`` (C) move after a step, or during ``fit``, which walks the target once.
    """

    thresholds: Tensor

    def __init__(self, settings: InstanceAdaptiveSettings, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("thresholds", torch.full((num_classes,), settings.start))
        self._moved: Tensor | None = None

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        thresholds = torch.full_like(self.thresholds, self.settings.start)
        for batch in target:
            for confidence, label in zip(*confidence_and_label(teacher.view(batch.image).probs)):
                thresholds = self.follow(thresholds, confidence, label)
        self.thresholds.copy_(thresholds)

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        thresholds, kept = self.thresholds if self._moved is None else self._moved, []
        for confidence, label in zip(*confidence_and_label(labels.probs.float())):
            thresholds = self.follow(thresholds, confidence, label)
            kept.append(confidence >= thresholds[label])
        self._moved = thresholds
        return labels.weighted(torch.stack(kept))

    def after_step(self, step: Step) -> None:
        if self._moved is not None and step.target is not None and step.target.view is not None:
            # Labels made before an offline generation do not count.
            self.thresholds.copy_(self._moved)
        self._moved = None

    def follow(self, thresholds: Tensor, confidence: Tensor, label: Tensor) -> Tensor:
        """C thresholds after one image: confidence and label h x w."""
        settings, moved = self.settings, thresholds.clone()
        for c in label.unique():
            values = confidence[(label == c) & confidence.isfinite()]
            pool = torch.cat((values, thresholds[c : c + 1]))
            percentile = _quantile(pool, 1 - settings.alpha * thresholds[c] ** settings.gamma)
            moved[c] = settings.momentum * thresholds[c] + (1 - settings.momentum) * percentile
        return moved.clamp(max=settings.cap)


def _quantile(values: Tensor, share: Tensor) -> Tensor:
    """Linear interpolation between ranks, as numpy's percentile; ``torch.quantile`` refuses large inputs."""
    ranked = values.sort().values
    place = share * (len(ranked) - 1)
    low = place.floor().long()
    return torch.lerp(ranked[low], ranked[(low + 1).clamp(max=len(ranked) - 1)], place - low)
