"""ProDA: a warm-up network's soft labels, denoised by each pixel's distance to the class prototypes.

Zhang, Zhang, Zhang, Chen, Wang, Wen: Prototypical Pseudo Label Denoising and Target Structure Learning, CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from segrefinery.core.pixelwise import highest
from segrefinery.core.resize import nearest
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.losses import kl_divergence, mrkld
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, Step
from segrefinery.refine.class_features import gather_statistics, require_finite
from segrefinery.refine.consistency import look_at_strong_view
from segrefinery.refine.prototypes.formulas import move_prototypes, prototype_distances, prototype_weights
from segrefinery.refine.prototypes.settings import PrototypesSettings
from segrefinery.refine.self_labeling.formulas import rectify


class Prototypes(Refiner):
    """Prototypes of the target's classes, and the frozen warm-up network whose labels they denoise."""

    reads_features = True
    prototypes: Tensor

    def __init__(self, settings: PrototypesSettings, segmenter: Segmenter, space: LabelSpace) -> None:
        super().__init__()
        self.settings = settings
        self.space = space
        self.warmup = Teacher(segmenter) if settings.soft_labels == "warmup" else None
        self.register_buffer("prototypes", torch.zeros(space.num_classes, segmenter.feature_channels))

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        settings = self.settings
        if self.warmup is not None:
            self.warmup.network.load_state_dict(teacher.network.state_dict())
        statistics = gather_statistics(
            teacher, source, target, self.space.classes, settings.initial, least=settings.min_pixels
        )
        self.prototypes.copy_(statistics.prototypes)

    @torch.no_grad()
    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        soft_labels = labels.probs if self.warmup is None else self.warmup.view(view.image).probs
        weights = prototype_weights(view.features, self.prototypes, self.settings.temperature)
        require_finite(weights)
        return replace(labels, probs=rectify(weights, soft_labels))

    def losses(self, step: Step) -> dict[str, Tensor]:
        target = step.target
        if target is None or target.view is None:
            return {}
        settings = self.settings
        share = 1.0 if settings.divisor == "pixels" else 1.0 / self.space.num_classes
        losses = {}
        if settings.structure_weight:
            losses["structure"] = share * settings.structure_weight * self.structure_loss(step, target.view)
        if settings.regularizer_weight:
            logits = target.prediction.logits
            pasted = nearest(target.mixed.pasted, logits.shape[-2:], target.prediction.aligned)
            losses["mrkld"] = share * settings.regularizer_weight * mrkld(logits, ~pasted)
        return losses

    def structure_loss(self, step: Step, view: TeacherView) -> Tensor:
        """KL(z_T || z_T'): the student's strong view must lie to the prototypes as the teacher's weak view does.
        Reaches the student alone."""
        strong = look_at_strong_view(step, view.image, self.settings.strong_view)
        with torch.no_grad():
            weak = prototype_distances(view.features, self.prototypes) / -self.settings.temperature
        moved = prototype_distances(strong.prediction.features, self.prototypes) / -self.settings.temperature
        return strong.compare(kl_divergence, weak, moved)

    @torch.no_grad()
    def remember(self, step: Step) -> None:
        """The prototypes follow the features of the pixels that carry their class."""
        target = step.target
        if target is None or target.view is None:
            return
        settings, view = self.settings, target.view
        labels = target.labels.labels if settings.update_labels == "refined" else highest(view.logits)
        self.prototypes.copy_(
            move_prototypes(
                self.prototypes, view.features, labels, settings.momentum, settings.update, settings.min_pixels
            )
        )
