"""CPSL: pixels of the target are clustered as training goes, and the clusters rectify the warm-up network's labels.

Li, Li, He, Zhang, Jia, Zhang: Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation,
CVPR 2022. The formulas are in ``formulas.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.losses import kl_divergence
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, Step
from segrefinery.refine.class_features import gather_statistics, require_finite
from segrefinery.refine.consistency import look_at_strong_view
from segrefinery.refine.self_labeling.bank import FeatureBank
from segrefinery.refine.self_labeling.formulas import (
    balanced_positions,
    cosine_similarities,
    rectify,
    sinkhorn,
    symmetric_kl,
    uniform_positions,
    update_class_distribution,
)
from segrefinery.refine.self_labeling.settings import SelfLabelingSettings


class SelfLabeling(Refiner):
    """The self-labelling head and its momentum copy, the memory of pixels, and the class distribution."""

    reads_features = True
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
        statistics = gather_statistics(teacher, source, target, self.space.classes, mean, normalize)
        self.distribution.copy_(statistics.distribution)
        if self.settings.initial != "random":
            self.head.copy_(F.normalize(statistics.prototypes, dim=1))
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
            positions = positions_of(own_labels, self.settings.samples, generator).to(
                own_features.device, non_blocking=True
            )
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
        end, assignments = len(bank_scores), []
        for count in groups:
            start = end if waits else max(end - settings.bank, 0)
            end += count
            assignments.append(sinkhorn(table[start:end], marginal, settings.epsilon, settings.iterations)[-count:])
        return torch.cat(assignments)

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
