"""Confidence as reliability: thresholds fixed, per class or running, and DAFormer's confidence share.

Formulas: normalised entropy (UncerDA, ICCV 2021, eq. 2); class thresholds (CBST; BDL and SAM app. C: class median
capped at 0.9; FDA: top 34 % capped at 0.9).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from segrefinery.core.pixelwise import confidence_and_label
from segrefinery.core.precision import wide
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, Step
from segrefinery.refine.settings import ConfidenceShareSettings, ConfidenceThresholdSettings


def normalized_entropy(probs: Tensor, dim: int = 1) -> Tensor:
    """Entropy over ``dim`` divided by log C, in [0, 1]; ``dim`` disappears. 0 log 0 counts as 0. (UncerDA eq. 2.)

    Raises:
        ValueError: fewer than two classes, for which log C is 0.
    """
    classes = probs.shape[dim]
    if classes < 2:
        raise ValueError(f"probs: at least 2 classes along dim {dim} expected, got shape {tuple(probs.shape)}")
    with torch.autocast(device_type=probs.device.type, enabled=False):
        probs = wide(probs)
        if probs.requires_grad:  # at 0 the gradient is infinite, and NaN behind a softmax that underflowed
            probs = probs.clamp(min=torch.finfo(probs.dtype).tiny)
        return (torch.special.entr(probs).sum(dim) / math.log(classes)).clamp(0.0, 1.0)


def class_thresholds(histogram: Tensor, portion: float = 0.5, cap: float = 0.9) -> Tensor:
    """Thresholds that keep the most confident ``portion`` of each class (``confidence >= threshold``), at most ``cap``.

    A threshold is the lower edge of the bin in which the portion is reached. There is no interpolation inside a bin:
    equal confidences stay together, so ties are kept, and at least ``portion`` is kept, at most one bin too much.

    Args:
        histogram: C x K counts of confidences in K equal bins of [0, 1].
        portion: share of each class to keep, in [0, 1].
        cap: no threshold is higher.

    Returns:
        C thresholds, float32; 0 for a class without pixels.

    Raises:
        ValueError: a histogram of another shape, ``portion`` or ``cap`` outside [0, 1].
    """
    if histogram.ndim != 2:
        raise ValueError(f"histogram: C x K expected, got shape {tuple(histogram.shape)}")
    if not 0.0 <= portion <= 1.0:
        raise ValueError(f"portion: a share in [0, 1] expected, got {portion}")
    if not 0.0 <= cap <= 1.0:
        raise ValueError(f"cap: a confidence in [0, 1] expected, got {cap}")
    counts = histogram.double()
    total = counts.sum(dim=1, keepdim=True)
    at_least = counts.flip(1).cumsum(1).flip(1)  # pixels in this bin or a higher one; falls from left to right
    enough = at_least >= portion * total * (1.0 - 1e-12)
    edge = (enough.sum(dim=1) - 1) / histogram.shape[1]
    return edge.clamp(0.0, cap).masked_fill(total[:, 0] <= 0, 0.0).float()


def confidence_histogram(probs: Tensor, bins: int) -> Tensor:
    """C x bins counts (int64) of the confidence of the pixels predicted as each class; probs B x C x h x w.

    Non-finite confidences are not counted.
    """
    confidence, label = confidence_and_label(probs.float())
    known, classes = confidence.isfinite(), probs.shape[1]
    # In float64 a pixel never lies below the float32 edge of the bin it was counted in.
    place = (confidence.double().nan_to_num() * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(classes * bins, dtype=torch.int64, device=probs.device)  # ``bincount`` waits for a GPU
    counts.scatter_add_(0, (label * bins + place).flatten(), known.long().flatten())
    return counts.view(classes, bins)


class ConfidenceThreshold(Refiner):
    """Weight 0 below a threshold: one for all classes, one a class, or the higher of both.

    A class that was never seen has threshold 0 of its own: its pixels are too rare to choose from. ``histogram`` is
    C x bins: counts over the target (fitted) or their moving average over the batches (running).
    """

    histogram: Tensor

    def __init__(self, settings: ConfidenceThresholdSettings, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("histogram", torch.zeros(num_classes, settings.bins, dtype=torch.float64))
        self._blended: Tensor | None = None

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        if self.settings.classes != "fitted":
            return
        self.histogram.zero_()
        for batch in target:
            self.histogram += confidence_histogram(teacher.view(batch.image).probs, self.settings.bins)

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        confidence, label = confidence_and_label(labels.probs.float())
        threshold = self._class_thresholds(labels.probs)[label].clamp(min=self.settings.threshold)
        return labels.weighted(confidence >= threshold)  # false for NaN

    def after_step(self, step: Step) -> None:
        if self._blended is not None and step.target is not None and step.target.view is not None:
            # Labels made before an offline generation do not count.
            self.histogram.copy_(self._blended)
        self._blended = None

    def _class_thresholds(self, probs: Tensor) -> Tensor:
        histogram, settings = self.histogram, self.settings
        if settings.classes == "none":
            return torch.zeros(len(histogram), device=histogram.device)
        if settings.classes == "running":
            # The batch itself counts already, so that the first step has thresholds; remembered only after the step,
            # which may have several micro-batches.
            past = histogram if self._blended is None else self._blended
            new = confidence_histogram(probs, settings.bins).double()
            self._blended = histogram = past * settings.momentum + new * (1.0 - settings.momentum)
        return class_thresholds(histogram, settings.portion, settings.cap)


class ConfidenceShare(Refiner):
    """Every pixel gets the share of confident pixels as its weight (DAFormer eq. 4); no state."""

    def __init__(self, settings: ConfidenceShareSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        settings = self.settings
        confidence = labels.probs.float().amax(dim=1)
        if settings.preset == "paper":
            share = (confidence > settings.threshold).float().mean(dim=(1, 2), keepdim=True).expand_as(confidence)
        else:
            share = (confidence >= settings.threshold).float().mean().expand_as(confidence)
        height = confidence.shape[1]
        top, bottom = (round(part * height) for part in settings.ignored_rows)
        row = torch.arange(height, device=share.device)
        inside = (row >= top) & (row < height - bottom)
        return labels.weighted(share * inside[:, None])
