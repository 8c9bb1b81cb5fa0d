"""ProDA: a warm-up network's soft labels, denoised by each pixel's distance to the class prototypes.

Zhang, Zhang, Zhang, Chen, Wang, Wen: Prototypical Pseudo Label Denoising and Target Structure Learning, CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from segrefinery.core.resize import nearest
from segrefinery.core.settings import BUDGET, CODE, PAPER, PresetSettings
from segrefinery.data.augment import AffineViewSettings
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.losses import kl_divergence, mrkld
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, RefinerSettings, Step
from segrefinery.refine.class_features import gather_statistics, require_finite
from segrefinery.refine.consistency import look_at_strong_view
from segrefinery.refine.prototypes.formulas import move_prototypes, prototype_distances
from segrefinery.refine.self_labeling.formulas import rectify


class PrototypesSettings(RefinerSettings, PresetSettings):
    """ProDA. The ``paper`` preset takes means over pixels; ``official`` does as the authors' code does."""

    presets: ClassVar = {
        "official": {
            "initial": "images",
            "update": "image",
            "update_labels": "teacher",
            "divisor": "elements",
        }
    }
    preset: Literal["paper", "official"] = "paper"
    """Chooses the other defaults: means over pixels, or (``official``) what the authors' code does."""
    soft_labels: Literal["warmup", "chain"] = "warmup"
    """Denoises the fixed opinion of the network as it was before this stage, or what the refiners before this one hand
    in (to stack)."""
    temperature: Annotated[float, CODE] = Field(default=1.0, gt=0)
    """Divides the distances (tau)."""
    initial: Annotated[Literal["pixels", "images"], PAPER] = "pixels"
    """Starts prototypes as means over all pixels of a class, or as means of the images' class means."""
    momentum: Annotated[float, BUDGET, CODE] = Field(default=0.9999, ge=0, le=1)
    """Weighs the old prototype in each move (lambda)."""
    update: Annotated[Literal["batch", "image"], PAPER] = "batch"
    """Moves prototypes once a batch, or once an image."""
    update_labels: Annotated[Literal["refined", "teacher"], PAPER] = "refined"
    """Moves prototypes by the refined labels, or by the teacher's own argmax."""
    min_pixels: Annotated[int, BUDGET, CODE] = Field(default=10, ge=1)
    """Leaves a prototype where it is if fewer pixels carry its class."""
    structure_weight: Annotated[float, CODE] = Field(default=10.0, ge=0)
    """Weighs the KL between the prototype softmaxes of weak and strong view (gamma 1)."""
    regularizer_weight: Annotated[float, CODE] = Field(default=0.1, ge=0)
    """Weighs MRKLD on the student's target prediction (gamma 2); the authors use 0 for SYNTHIA."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Takes both losses as means over pixels, or over pixels and classes (1/C of that)."""
    strong_view: Annotated[AffineViewSettings | None, CODE] = AffineViewSettings(blur=0.0, jitter_probability=0.0)
    """Shows the student RandAugment and Cutout by default; null for the stage's photometric view."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> Prototypes:
        """The refiner for networks of this one's shape."""
        return Prototypes(self, segmenter, space)


class Prototypes(Refiner):
    """Prototypes of the target's classes, and the frozen warm-up network whose labels they denoise."""

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
        found = gather_statistics(
            teacher, source, target, self.space.classes, settings.initial, least=settings.min_pixels
        )
        self.prototypes.copy_(found.prototypes)

    @torch.no_grad()
    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        soft_labels = labels.probs if self.warmup is None else self.warmup.view(view.image).probs
        distances = prototype_distances(view.features, self.prototypes)
        require_finite(distances)
        weights = (distances / -self.settings.temperature).softmax(dim=1)
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
        labels = target.labels.labels if settings.update_labels == "refined" else view.logits.argmax(dim=1)
        self.prototypes.copy_(
            move_prototypes(
                self.prototypes, view.features, labels, settings.momentum, settings.update, settings.min_pixels
            )
        )
