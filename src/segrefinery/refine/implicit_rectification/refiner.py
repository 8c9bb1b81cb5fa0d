"""IR2F as a refiner: labels from a rectified mixture of learners, trained end to end (Gong et al., CVPR 2023).

A re-implementation from the paper's abstract and introduction. The learners are a primary and an auxiliary classifier
(as in MRNet), or HRDA's context and detail.

    source  L_S = -log sum_k w_k(x) p_k(y_S | x)            target  L_T = -q log sum_k w_k(x) p_k(y_M | x)
    labels  y = argmax_c sum_k w_k p_k(c | x) of the teacher, whose weights come from a moving average of the function
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.labels import IGNORE
from segrefinery.losses import learner_cross_entropy
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, Step
from segrefinery.refine.implicit_rectification.formulas import WHOLE, nearest_pixel
from segrefinery.refine.implicit_rectification.function import ImplicitRectification
from segrefinery.refine.implicit_rectification.settings import ImplicitRectificationSettings


class ImplicitRectifier(Refiner):
    """Trains the mixture on source and target, and labels the target by the teacher's mixture.

    In a chain it replaces the teacher's own opinion by the mixture's and keeps what earlier refiners made of it:
    labels ~ mixture * (labels so far / teacher's probabilities), so as the first of a chain it gives the mixture.
    """

    reads_features = True

    def __init__(
        self, latent_channels: Sequence[int], num_classes: int, settings: ImplicitRectificationSettings | None = None
    ) -> None:
        super().__init__()
        self.settings = settings = settings or ImplicitRectificationSettings()
        self.function = ImplicitRectification(
            latent_channels,
            num_classes,
            hidden=settings.hidden,
            weighting=settings.weighting,
            space=settings.space,
            classwise=settings.classwise,
            pe=settings.pe,
            ensemble=settings.ensemble,
            unfold=settings.unfold,
            shared=settings.shared,
            noise_component=settings.noise_component,
            detach_latents=settings.detach_latents,
        )
        self.average = copy.deepcopy(self.function).requires_grad_(False)

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        """Label from the function as an earlier stage left it."""
        self.average.load_state_dict(self.function.state_dict())

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        size = (labels.probs.shape[-2], labels.probs.shape[-1])
        mixture = self.average.decode(view.learners, size, log=True, aligned=labels.aligned)
        ahead = labels.probs.float().clamp_min(1e-6).log() - view.probs.clamp_min(1e-6).log()
        refined = replace(labels, probs=(mixture + ahead).softmax(dim=1))
        if self.settings.pixel_weight == "mixture":
            return refined.weighted(refined.probs.amax(dim=1))
        if self.settings.pixel_weight == "noise":
            weights = self.average.decode_weights(view.learners, size, noise=True, aligned=labels.aligned)
            return refined.weighted(1 - weights[:, -1])
        return refined

    def losses(self, step: Step) -> dict[str, Tensor]:
        settings, source, target = self.settings, step.source, step.target
        losses = {}
        if settings.source_weight:
            loss = self._loss(source.prediction.learners, source.batch.label, None, step.generators, on_target=False)
            losses["rectified_source"] = settings.source_weight * loss
        if settings.target_weight and target is not None:
            learners, mixed = target.prediction.learners, target.mixed
            loss = self._loss(learners, mixed.label, mixed.weight, step.generators, on_target=True)
            losses["rectified_target"] = settings.target_weight * loss
        return losses

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The average follows the function as the teacher follows the student."""
        if step.target is None:
            return
        decay = step.target.teacher.decay_at(step.number)
        for old, new in zip(self.average.parameters(), self.function.parameters(), strict=True):
            old.lerp_(new.to(old.dtype), 1.0 - decay)

    def predictor(self, segmenter: nn.Module) -> nn.Module:
        """The network whose prediction is the mixture, at any resolution."""
        assert isinstance(segmenter, Segmenter)
        return RectifiedSegmenter(segmenter, self.function)

    def _loss(
        self,
        learners: Sequence[Learner],
        label: Tensor,
        weight: Tensor | None,
        generators: Sequence[torch.Generator],
        on_target: bool,
    ) -> Tensor:
        """The mixture's loss at random points, each with the label of the pixel it lies in: the mean over all that
        have a label, trusted or not."""
        drawn = [torch.rand(self.settings.queries, 2, generator=generator) for generator in generators[: len(label)]]
        points = (2 * torch.stack(drawn) - 1).to(label.device, non_blocking=True)
        labels = nearest_pixel(label, points)
        weights = None if weight is None else nearest_pixel(weight.float(), points)
        if weights is not None:  # what is not trusted carries 255, but counts in the mean of q L with its q of 0
            labels = labels.masked_fill(weights <= 0, 0)
        regularizer = labels.new_zeros((), dtype=torch.float32)
        if on_target and self.settings.weighting == "heuristic" and all(learner.share is None for learner in learners):
            variance = self._variance(learners, points)
            weights = (-variance).exp() * (1.0 if weights is None else weights)
            regularizer = (variance * (labels != IGNORE)).mean()
        noise = on_target and self.settings.noise_component
        loss = self.function.nll(learners, points, labels, weight=weights, noise=noise) + regularizer
        for beta, learner in zip(self.settings.betas, learners, strict=False):
            loss = loss + beta * learner_cross_entropy(learner, label, weight)
        return loss

    def _variance(self, learners: Sequence[Learner], points: Tensor) -> Tensor:
        """KL(p_1 || p_2) at points, B x Q: MRNet's measure of how far its classifiers disagree."""
        log_probs = self.function.learner_log_probs(learners, points)
        return (log_probs[:, 0].exp() * (log_probs[:, 0] - log_probs[:, 1])).sum(dim=1)


class RectifiedSegmenter(Segmenter):
    """A network and its rectification function: ``logits`` are the mixture's log-probabilities on the finest learner's
    grid, and ``predict`` decodes them at any resolution."""

    def __init__(self, segmenter: Segmenter, function: ImplicitRectification) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.function = function
        self.num_classes = segmenter.num_classes
        self.normalization = segmenter.normalization
        self.largest_stride = segmenter.largest_stride
        self.feature_channels = segmenter.feature_channels
        self.level_channels = segmenter.level_channels
        self.learner_channels = segmenter.learner_channels

    def forward(self, image: Tensor) -> Prediction:
        prediction: Prediction = self.segmenter(image)
        size = max(_whole_grid(learner) for learner in prediction.learners)
        features = bilinear(prediction.features, size, prediction.aligned)
        logits = self.function.decode(prediction.learners, size, log=True)
        return Prediction(logits, features, prediction.levels, prediction.learners)

    @torch.no_grad()
    def predict(self, image: Tensor, size: tuple[int, int], chunk: int | None = 16384) -> Tensor:
        """Logits B x C x H x W (log-probabilities: their softmax is the mixture) of B x 3 x . x . images at the
        resolution ``size`` = (H, W), decoded there and not up-sampled; ``chunk`` points an image at a time."""
        return self.function.decode(self.segmenter(image).learners, size, chunk, log=True)

    def levels(self, image: Tensor) -> Sequence[Tensor]:
        return self.segmenter.levels(image)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return self.segmenter.backbone_parameters()


def _whole_grid(learner: Learner) -> tuple[int, int]:
    """The size a learner's grid would have over the whole image."""
    if learner.box == WHOLE:
        return learner.logits.shape[-2], learner.logits.shape[-1]
    top, left, bottom, right = learner.box
    return round(learner.logits.shape[-2] / (bottom - top)), round(learner.logits.shape[-1] / (right - left))
