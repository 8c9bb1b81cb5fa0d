"""CPSL: pixels of the target are clustered as training goes, and the clusters rectify the warm-up network's labels.

Li, Li, He, Zhang, Jia, Zhang: Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation,
CVPR 2022. The formulas are in ``formulas.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segrefinery.core.settings import BUDGET, CODE, PAPER, PresetSettings
from segrefinery.data.augment import AffineViewSettings
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.losses import kl_divergence
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, RefinerSettings, Step
from segrefinery.refine.class_features import gather_statistics, require_finite
from segrefinery.refine.consistency import look_at_strong_view, symmetric_kl
from segrefinery.refine.self_labeling.bank import FeatureBank
from segrefinery.refine.self_labeling.formulas import (
    balanced_positions,
    cosine_similarities,
    rectify,
    sinkhorn,
    uniform_positions,
    update_class_distribution,
)


class SelfLabelingSettings(RefinerSettings, PresetSettings):
    """CPSL. Each component of the paper's ablations is a field; w/o Mom also needs the stage's ``teacher.decay: 0``."""

    presets: ClassVar = {
        "official": {
            "initial": "images",
            "initial_features": "raw",
            "samples": 256,
            "sampling": "uniform",
            "distribution_momentum": 1.0,
            "assign": "image",
            "assign_logits": True,
            "wait_for_bank": True,
            "consistency": "clusters",
            "divisor": "elements",
        }
    }
    preset: Literal["paper", "official"] = "paper"
    """Chooses the other defaults: what the paper says, or (``official``) what the authors' code does."""
    labels: Literal["rectified", "soft_labels", "clusters"] = "rectified"
    """Makes labels from clusters times soft labels, from the soft labels alone (w/o SL, with ``self_labeling_weight:
    0``) or from the clusters alone (w/o ST)."""
    soft_labels: Literal["warmup", "chain"] = "warmup"
    """Rectifies the fixed opinion of the network as it was before this stage, or what the refiners before this one hand
    in (to stack)."""
    temperature: Annotated[float, PAPER] = Field(default=0.08, gt=0)
    """Divides the cosines in the cluster softmax (tau); towards 0 the labels follow the clusters."""
    initial: Annotated[Literal["pixels", "images", "random"], PAPER] = "pixels"
    """Starts the cluster weights as class means over all pixels, as class means of image means, or at random (w/o
    Init)."""
    initial_features: Annotated[Literal["normalized", "raw"], PAPER] = "normalized"
    """Averages features of length 1 for the first clusters, as eq. 7 does, or raw features; the mean is normalised
    after either."""
    head_momentum: Annotated[float, BUDGET, PAPER] = Field(default=0.999, ge=0, le=1)
    """Weighs the old copy of the head in its moving average; 0 for none (w/o Mom)."""
    head_lr: Annotated[float, BUDGET, PAPER] = Field(default=5e-4, gt=0)
    """Sets the learning rate of the head, which SGD moves whatever the stage's optimizer is: an adaptive step would not
    feel lambda 1."""
    samples: Annotated[int, BUDGET, PAPER] = Field(default=512, ge=1)
    """Draws so many pixels from each image (M)."""
    sampling: Annotated[Literal["balanced", "uniform"], PAPER] = "balanced"
    """Draws pixels by class (eq. 9), or evenly (w/o CB)."""
    marginal: Annotated[Literal["distribution", "uniform"], PAPER] = "distribution"
    """Gives the assignment the class shares of the labels (eq. 12), or equal ones (w/o CB)."""
    distribution_momentum: Annotated[float, BUDGET] = Field(default=0.999, ge=0, le=1)
    """Weighs the old class distribution in eq. 11; 1 keeps that of the warm-up network."""
    epsilon: Annotated[float, PAPER] = Field(default=0.05, gt=0)
    """Divides the scores of the assignment (eq. 6); smaller is harder."""
    iterations: Annotated[int, CODE] = Field(default=3, ge=1)
    """Limits the Sinkhorn iterations; 3 leave the class marginal approximate, 50 meet it."""
    bank: Annotated[int, BUDGET, PAPER] = Field(default=65_536, ge=1)
    """Remembers so many pixel features."""
    wait_for_bank: bool = False
    """Leaves the bank out of the assignment until it is full."""
    assign: Literal["batch", "image"] = "batch"
    """Assigns all pixels of a batch at once, or image after image."""
    assign_logits: Annotated[bool, PAPER] = False
    """Adds a second assignment, of the teacher's logits, as the official code does."""
    self_labeling_weight: Annotated[float, PAPER] = Field(default=0.1, ge=0)
    """Weighs the clusters' loss (lambda 1)."""
    consistency_weight: Annotated[float, PAPER] = Field(default=5.0, ge=0)
    """Weighs the consistency of weak and strong view (lambda 2); 0 for w/o Aug."""
    consistency: Annotated[Literal["symmetric", "clusters"], PAPER] = "symmetric"
    """Compares segmentation softmaxes in both directions (eq. 13), or cluster softmaxes by KL(teacher || student)."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Takes the consistency as a mean over pixels, or over pixels and classes (1/C of that), for which the authors
    chose its weight."""
    strong_view: Annotated[AffineViewSettings | None, CODE] = AffineViewSettings()
    """Shows the student RandAugment, Cutout, jitter and blur by default; null for the stage's photometric view."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> SelfLabeling:
        """The refiner for networks of this one's shape."""
        return SelfLabeling(self, segmenter, space)


class SelfLabeling(Refiner):
    """The self-labelling head and its momentum copy, the memory of pixels, and the class distribution."""

    head_copy: Tensor
    distribution: Tensor

    def __init__(self, settings: SelfLabelingSettings, segmenter: Segmenter, space: LabelSpace) -> None:
        super().__init__()
        self.settings = settings
        self.space = space
        self.sgd_rate = settings.head_lr
        classes, channels = space.num_classes, segmenter.feature_channels
        self.warmup = Teacher(segmenter) if settings.soft_labels == "warmup" else None
        self.head = nn.Parameter(F.normalize(torch.randn(classes, channels), dim=1))
        self.register_buffer("head_copy", self.head.detach().clone())
        self.register_buffer("distribution", torch.full((classes,), 1.0 / classes))
        self.bank = FeatureBank(settings.bank, channels)
        self.logit_bank = FeatureBank(settings.bank, classes) if settings.assign_logits else None
        self._drawn: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        """Class prototypes (eq. 7) and class distribution (eq. 10) of the target, by the warm-up network's labels."""
        if self.warmup is not None:
            self.warmup.network.load_state_dict(teacher.network.state_dict())
        mean = "images" if self.settings.initial == "images" else "pixels"
        normalize = self.settings.initial_features == "normalized"
        found = gather_statistics(teacher, source, target, self.space.classes, mean, normalize)
        self.distribution.copy_(found.distribution)
        if self.settings.initial != "random":
            self.head.copy_(F.normalize(found.prototypes, dim=1))
        self.head_copy.copy_(self.head)
        for bank in self._banks():
            bank.clear()

    @torch.no_grad()
    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        """Eq. 1 with P_SL of the momentum head on the teacher's features."""
        soft_labels = labels.probs if self.warmup is None else self.warmup.view(view.image).probs
        if self.settings.labels == "soft_labels":
            return replace(labels, probs=soft_labels)
        scores = cosine_similarities(view.features, self.head_copy)
        require_finite(scores)
        clusters = (scores / self.settings.temperature).softmax(dim=1)
        if self.settings.labels == "clusters":
            return replace(labels, probs=clusters)
        return replace(labels, probs=rectify(clusters, soft_labels))

    def losses(self, step: Step) -> dict[str, Tensor]:
        target = step.target
        if target is None or target.view is None:
            return {}
        losses = {}
        if self.settings.self_labeling_weight:
            losses["self_labeling"] = self.settings.self_labeling_weight * self.self_labeling_loss(
                target.view, target.labels, step.generators
            )
        if self.settings.consistency_weight:
            losses["consistency"] = self.settings.consistency_weight * self.consistency_loss(step, target.view)
        return losses

    def self_labeling_loss(self, view: TeacherView, labels: PseudoLabels, generators: list[torch.Generator]) -> Tensor:
        """L_SL (eq. 5): the head must say of the drawn pixels what their assignment says. Reaches the head alone."""
        with torch.autocast(self.head.device.type, enabled=False):
            features, logits, counts = self.draw(view, labels, generators)
            self._drawn.append((features, logits))
            if not len(features):
                return self.head.sum() * 0.0
            directions = F.normalize(self.head.float(), dim=1)
            with torch.no_grad():
                bank_scores = (directions @ self.bank.content.T).T  # the faster order for tall matrices
                assignment = self.assign(self.bank, bank_scores, features @ directions.T, counts)
                if self.logit_bank is not None:
                    assignment += self.assign(self.logit_bank, self.logit_bank.content, logits, counts)
            log_probs = (features @ directions.T / self.settings.temperature).log_softmax(dim=1)
            return -(assignment * log_probs).sum(dim=1).mean()

    @torch.no_grad()
    def draw(
        self, view: TeacherView, labels: PseudoLabels, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Pixels of the batch (eq. 9): normalised features n x D and logits n x C, and how many came from each image.

        Raises:
            SegRefineryError: a drawn feature is not finite.
        """
        positions_of = balanced_positions if self.settings.sampling == "balanced" else uniform_positions
        maps = labels.labels.flatten(1).cpu(), view.features.flatten(2), view.logits.flatten(2)
        features, logits, counts = [], [], []
        for own_labels, own_features, own_logits, generator in zip(*maps, generators, strict=True):
            positions = positions_of(own_labels, self.settings.samples, generator).to(own_features.device)
            features.append(own_features[:, positions].T)
            logits.append(own_logits[:, positions].T)
            counts.append(len(positions))
        drawn = torch.cat(features).float(), torch.cat(logits).float()
        require_finite(drawn[0])
        return F.normalize(drawn[0], dim=1), F.normalize(drawn[1], dim=1), counts

    def assign(self, bank: FeatureBank, bank_scores: Tensor, scores: Tensor, counts: list[int]) -> Tensor:
        """Assignment n x C of the drawn pixels, made together with those in the bank.

        Args:
            bank_scores: of ``bank.content``.
            scores: n x C of the drawn pixels, image after image.
            counts: how many of them each image has.
        """
        settings = self.settings
        marginal = self.distribution if settings.marginal == "distribution" else torch.ones_like(self.distribution)
        waits = settings.wait_for_bank and len(bank) < settings.bank
        if waits:
            bank_scores = bank_scores[:0]
        groups = [len(scores)] if settings.assign == "batch" else [count for count in counts if count]
        # Oldest first, so that an image that sees the ones before it sees as many old rows less.
        table = torch.cat([bank_scores[bank.oldest :], bank_scores[: bank.oldest], scores])
        end, found = len(bank_scores), []
        for count in groups:
            start = end if waits else max(end - settings.bank, 0)
            end += count
            found.append(sinkhorn(table[start:end], marginal, settings.epsilon, settings.iterations)[-count:])
        return torch.cat(found)

    def consistency_loss(self, step: Step, view: TeacherView) -> Tensor:
        """L_REG between weak and strong view. Reaches the student alone."""
        strong = look_at_strong_view(step, view.image, self.settings.strong_view)
        share = 1.0 if self.settings.divisor == "pixels" else 1.0 / self.space.num_classes
        if self.settings.consistency == "symmetric":
            return share * strong.compare(symmetric_kl, view.logits, strong.prediction.logits)
        weak = cosine_similarities(view.features, self.head_copy) / self.settings.temperature
        moved = cosine_similarities(strong.prediction.features, self.head_copy) / self.settings.temperature
        return share * strong.compare(kl_divergence, weak, moved)

    @torch.no_grad()
    def remember(self, step: Step) -> None:
        """The drawn pixels enter the bank, and the class distribution moves (eq. 11)."""
        if step.target is None or step.target.view is None:
            return
        for features, logits in self._drawn:
            for bank, rows in zip(self._banks(), (features, logits), strict=False):
                bank.push(rows)
        self._drawn.clear()
        momentum = self.settings.distribution_momentum
        self.distribution.copy_(update_class_distribution(self.distribution, step.target.labels.labels, momentum))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The momentum head follows the head."""
        if step.target is not None and step.target.view is not None:
            self.head_copy.lerp_(self.head, 1 - self.settings.head_momentum)

    def _banks(self) -> list[FeatureBank]:
        return [bank for bank in (self.bank, self.logit_bank) if bank is not None]
