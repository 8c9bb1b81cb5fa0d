"""UncerDA's labels: pixels whose entropy belongs to the certain one of two Gaussians.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021, section 4.2, eq. 6.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from segrefinery.core.pixelwise import highest
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture.formulas import (
    MIN_GAP,
    MIN_STD,
    Mixture,
    Rule,
    fit_binned,
    quantile,
    statistics,
)
from segrefinery.refine.entropy_mixture.settings import EntropyMixtureSettings


class EntropyMixture(Refiner):
    """Weight 1 for certain pixels, 0 for the others, decided per image and class.

    What a mixture cannot decide (our rules):
    fewer than ``min_pixels`` -> the target set's rule of the class;
    constant entropies -> all if their mean is below half of the class's mean over the target set, else none;
    components closer than 0.02 -> entropies up to the highest that the target set's rule keeps.
    The target set's own rule is its mixture; the class's median where the components are closer than 0.02; and none
    where the entropies are constant or the class was never seen.

    Buffers: ``counts`` C x bins, ``moments`` C x 3 (pixels, sum of entropies, sum of squares), gathered by ``fit``.
    """

    counts: Tensor
    moments: Tensor

    def __init__(self, settings: EntropyMixtureSettings, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        self.register_buffer("counts", torch.zeros(num_classes, settings.bins, dtype=torch.float64))
        self.register_buffer("moments", torch.zeros(num_classes, 3, dtype=torch.float64))
        self._known: tuple[Tensor, Rule] | None = None

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        counts, moments = torch.zeros_like(self.counts), torch.zeros_like(self.moments)
        for batch in target:
            probs = teacher.view(batch.image).probs
            new_counts, new_moments = self._gather(normalized_entropy(probs), highest(probs))
            counts += new_counts.sum(dim=0)
            moments += new_moments.sum(dim=0)
        self.counts.copy_(counts)
        self.moments.copy_(moments)

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        entropy, label = normalized_entropy(labels.probs), highest(labels.probs)
        if self.settings.gmm_scope == "dataset":
            return labels.weighted(self.dataset_rule().weight(entropy, (label,), self.settings.soft))
        rule = self._image_rule(*self._gather(entropy, label))
        image = torch.arange(len(label), device=label.device).view(-1, 1, 1).expand_as(label)
        return labels.weighted(rule.weight(entropy, (image, label), self.settings.soft))

    def mixtures(self) -> Mixture:
        """The target set's mixtures, C x 2 each; NaN means for a class that was never predicted."""
        return self._mixtures(self.counts)

    def dataset_rule(self) -> Rule:
        """The target set's rule of each class."""
        if self._known is None or not torch.equal(self._known[0], self.counts):
            mixture = self.mixtures()
            pixels, _, std = statistics(self.moments)
            rule = Rule.of(mixture, self.settings.guard)
            median = quantile(self.counts, self._points, 0.5) + 0.5 / self.settings.bins
            rule = Rule.up_to(median).where(mixture.means.diff(dim=-1)[..., 0] < MIN_GAP, rule)
            rule = Rule.up_to(torch.full_like(median, -1.0)).where((pixels < 2) | (std < MIN_STD), rule)
            self._known = (self.counts.clone(), rule)
        return self._known[1]

    def _image_rule(self, counts: Tensor, moments: Tensor) -> Rule:
        """Rules B x C from the images' own B x C x bins counts and B x C x 3 moments."""
        pixels, mean, std = statistics(moments)
        dataset = self.dataset_rule()
        rule = Rule(*(part.expand_as(mean) for part in dataset))
        enough = (pixels >= self.settings.min_pixels).nonzero(as_tuple=True)
        if not len(enough[0]):
            return rule
        mixture = self._mixtures(counts[enough])
        fitted = Rule.of(mixture, self.settings.guard)
        highest = self._highest_kept(dataset)[enough[1]]
        fitted = Rule.up_to(highest).where(mixture.means.diff(dim=-1)[..., 0] < MIN_GAP, fitted)
        _, usual, _ = statistics(self.moments)
        constant = torch.where(mean[enough] < 0.5 * usual[enough[1]], 1.0, -1.0).to(mean.dtype)
        fitted = Rule.up_to(constant).where(std[enough] < MIN_STD, fitted)
        return Rule(*(part.index_put(enough, new) for part, new in zip((part.clone() for part in rule), fitted)))

    def _highest_kept(self, rule: Rule) -> Tensor:
        """C: the highest entropy that a rule C keeps, -1 if none."""
        grid = self._points.expand(self.num_classes, -1)
        which = torch.arange(self.num_classes, device=grid.device)[:, None].expand_as(grid)
        kept = rule.weight(grid, (which,), soft=False) > 0
        return torch.maximum(grid.masked_fill(~kept, -1.0).amax(dim=1), rule.limit)

    def _gather(self, entropy: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """B x C x bins counts and B x C x 3 moments of the entropies B x h x w of each image and predicted class."""
        images, classes, bins = len(label), self.num_classes, self.settings.bins
        cells = images * classes
        known = entropy.isfinite()
        key = torch.arange(images, device=label.device).view(-1, 1, 1) * classes + label
        # Unknown entropies go to a cell of their own, which is dropped: quicker than picking out the known ones.
        key = torch.where(known, key, cells).flatten()
        value = torch.where(known, entropy, 0.0).flatten()
        place = value.mul(bins).int().clamp_(0, bins - 1).add_(key, alpha=bins)
        counts = torch.bincount(place, minlength=(cells + 1) * bins).view(cells + 1, bins)[:cells].double()
        power = value.double()
        first = torch.bincount(key, weights=power, minlength=cells + 1)[:cells]
        second = torch.bincount(key, weights=power.square_(), minlength=cells + 1)[:cells]
        moments = torch.stack((counts.sum(dim=1), first, second), dim=1)
        return counts.view(images, classes, bins), moments.view(images, classes, 3)

    @property
    def _points(self) -> Tensor:
        return (
            torch.arange(self.settings.bins, device=self.counts.device, dtype=torch.float64) + 0.5
        ) / self.settings.bins

    def _mixtures(self, counts: Tensor) -> Mixture:
        return fit_binned(counts, self._points, self.settings.iterations, self.settings.tolerance)
