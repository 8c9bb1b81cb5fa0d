"""Entropy mixtures: pixels whose entropy belongs to the certain one of two Gaussians become labels.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021, section 4.2, eq. 6. The paper gives no
start, limits or fallbacks of the fit; ours are named where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from segrefinery.core.precision import wide
from segrefinery.core.settings import Settings
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner
from segrefinery.refine.confidence import normalized_entropy

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace

MIN_STD = 1e-3
"""Entropies that vary less are constant: nothing can be told apart."""
MIN_GAP = 0.02
"""Component means that lie closer are one component."""


@dataclass
class Mixture:
    """Two Gaussians (or a batch of such pairs); component 0 has the lower mean: certain.

    Attributes:
        weights, means, stds: ... x 2. Of a degenerate fit (one value, constant values) both components are the same,
            so that no posterior exceeds 1/2; without any value the means are NaN.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def log_odds(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, c such that log(posterior_0 / posterior_1) of a value x is a x^2 + b x + c."""
        precision = self.stds.pow(-2)
        log_scale = self.weights.clamp(min=1e-300).log() - self.stds.log()
        terms = (-precision / 2, precision * self.means, log_scale - precision * self.means.square() / 2)
        a, b, c = (term[..., 0] - term[..., 1] for term in terms)
        return a, b, c


def fit_two_gaussians(
    values: Tensor, *, bins: int = 1024, iterations: int = 500, tolerance: float = 1e-8, variance_floor: float = 1e-6
) -> Mixture:
    """Mixture of two Gaussians over n values by expectation maximisation (UncerDA eq. 6). NaN and infinities are
    left out.

    More values than ``bins`` are gathered in that many equal bins first, each represented by its own mean, which
    moves the means by far less than a bin. For start and stop see ``fit_binned``. Limits are as tight as a single fit
    can afford; the refiner, which fits thousands, stops earlier and does not let a component get narrower than 0.01.

    Returns:
        Mixture with ``weights``, ``means`` and ``stds`` of shape (2,), float64; degenerate input: see ``Mixture``.
    """
    values = values.detach().double().flatten()
    values = values[values.isfinite()]
    if values.numel() <= bins:
        points, counts = values, torch.ones_like(values)
    else:
        low, high = values.aminmax()
        place = ((values - low) / (high - low).clamp(min=1e-300) * bins).long().clamp(max=bins - 1)
        counts = torch.bincount(place, minlength=bins).double()
        points = torch.bincount(place, weights=values, minlength=bins) / counts.clamp(min=1)
    fit = fit_binned(counts[None], points, iterations, tolerance, variance_floor)
    return Mixture(fit.weights[0], fit.means[0], fit.stds[0])


def certain_posterior(values: Tensor, mixture: Mixture) -> Tensor:
    """Posterior of component 0 of a single mixture at each value, same shape; 0 for NaN values or an empty mixture.

    ``mixture`` is anything with ``weights``, ``means`` and ``stds`` of shape (2,).
    """
    parts = (mixture.weights, mixture.means, mixture.stds)
    a, b, c = Mixture(*(part.to(values.device, torch.float64) for part in parts)).log_odds()
    x = values.double()
    posterior = torch.sigmoid((a * x + b) * x + c).nan_to_num(nan=0.0)
    return posterior.to(wide(values).dtype)


def fit_binned(
    counts: Tensor, points: Tensor, iterations: int = 100, tolerance: float = 1e-6, variance_floor: float = 1e-4
) -> Mixture:
    """R mixtures at once, by expectation maximisation over values gathered in bins.

    Start: the best split in two by 2-means, which over bins is a search of all cuts (Otsu) and lands where
    scikit-learn's k-means start does. A row stops when its mean log-likelihood moves by less than ``tolerance`` or
    after ``iterations``; it is then left as it is, so that a row's result does not depend on its company.

    Args:
        counts: R x K pixels in each bin.
        points: K, the value that stands for each bin; in any order.
    """
    if not len(points):
        points, counts = points.new_zeros(1), counts.new_zeros(len(counts), 1)
    order = points.argsort()
    points, counts = points[order].double(), counts[:, order].double()
    total = counts.sum(dim=1)
    size = total.clamp(min=1)
    powers = torch.stack((torch.ones_like(points), points, points.square()), dim=1)  # K x 3
    moments = counts @ powers  # R x 3: total, sum and sum of squares
    mean = moments[:, 1] / size
    spread = ((points - mean[:, None]).square() * counts).sum(dim=1) / size

    weights, means, variances = _two_means(counts, powers)
    variances = variances.clamp(min=variance_floor)
    likelihood = torch.full_like(mean, -math.inf)
    # Without two values that differ there is nothing to separate.
    active = spread > 1e-12
    means = torch.where(active[:, None], means, mean[:, None])
    weights = torch.where(active[:, None], weights, 0.5)
    variances = torch.where(active[:, None], variances, variance_floor)
    for _ in range(iterations):
        if not active.any():
            break
        a, b, c = (term[:, None] for term in Mixture(weights, means, variances.sqrt()).log_odds())
        odds = a * powers[:, 2] + b * powers[:, 1] + c
        certain = (counts * torch.sigmoid(odds)) @ powers
        both = torch.stack((certain, moments - certain), dim=1)  # R x 2 x 3
        share = both[..., 0].clamp(min=1e-12)
        new_means = torch.where(both[..., 0] > 1e-9, both[..., 1] / share, means)

        uncertain = -(points - means[:, 1:]).square() / (2 * variances[:, 1:])
        uncertain = uncertain + (weights[:, 1:].clamp(min=1e-300) / variances[:, 1:].sqrt()).log()
        new_likelihood = ((uncertain + torch.nn.functional.softplus(odds)) * counts).sum(dim=1) / size

        new_variances = (both[..., 2] / share - new_means.square()).clamp(min=variance_floor)
        update = active[:, None]
        weights = torch.where(update, share / size[:, None], weights)
        means = torch.where(update, new_means, means)
        variances = torch.where(update, new_variances, variances)
        active = active & ((new_likelihood - likelihood).abs() >= tolerance)
        likelihood = new_likelihood

    swap = (means[:, :1] > means[:, 1:]).expand_as(means)
    weights, means, stds = (torch.where(swap, pair.flip(1), pair) for pair in (weights, means, variances.sqrt()))
    means = torch.where(total[:, None] > 0, means, torch.nan)
    return Mixture(weights, means, stds)


def _two_means(counts: Tensor, powers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R x 2 weights, means and variances of the two parts that the best cut of the sorted bins leaves.

    Args:
        counts: R x K.
        powers: K x 3: 1, value, value squared.
    """
    left = (counts[..., None] * powers).cumsum(dim=1)  # R x K x 3
    both = torch.stack((left, left[:, -1:] - left), dim=2)  # R x K x 2 x 3
    number = both[..., 0].clamp(min=1e-12)
    between = (both[..., 1].square() / number).masked_fill(both[..., 0] < 0.5, 0.0).sum(dim=-1)
    cut = between.argmax(dim=1)
    part = both[torch.arange(len(cut), device=cut.device), cut]
    number = part[..., 0].clamp(min=1e-12)
    means = part[..., 1] / number
    return part[..., 0] / number.sum(dim=-1, keepdim=True), means, part[..., 2] / number - means.square()


def _quantile(counts: Tensor, points: Tensor, share: float) -> Tensor:
    """R weighted quantiles of the sorted points: the first that reaches the share."""
    reached = counts.cumsum(dim=1) >= share * counts.sum(dim=1, keepdim=True)
    return points[reached.int().argmax(dim=1)]


class Rule(NamedTuple):
    """Which entropies of a class are kept: those up to ``limit``, and those whose log-odds a x^2 + b x + c are
    positive. Each ... x C."""

    a: Tensor
    b: Tensor
    c: Tensor
    limit: Tensor

    @classmethod
    def up_to(cls, limit: Tensor) -> Rule:
        """No mixture: entropies up to the limit; below 0 none."""
        zero = torch.zeros_like(limit)
        return cls(zero, zero, torch.full_like(limit, -math.inf), limit)

    @classmethod
    def of(cls, mixture: Mixture, guard: bool) -> Rule:
        certain = mixture.means[..., 0]
        return cls(*mixture.log_odds(), limit=certain if guard else torch.full_like(certain, -1.0))

    def where(self, condition: Tensor, other: Rule) -> Rule:
        """This rule where the condition holds, the other one elsewhere."""
        return Rule(*(torch.where(condition, own, new) for own, new in zip(self, other)))

    def weight(self, entropy: Tensor, pick: tuple[Tensor, ...], soft: bool) -> Tensor:
        """Weight of each entropy, under the rule found at ``pick``; 0 for NaN."""
        a, b, c, limit = (part[pick].to(entropy.dtype) for part in self)
        posterior = torch.sigmoid((a * entropy + b) * entropy + c)
        chosen = posterior if soft else (posterior > 0.5).to(entropy.dtype)
        return torch.where(entropy <= limit, 1.0, chosen).masked_fill(entropy.isnan(), 0.0)


class EntropyMixtureSettings(Settings):
    """Keep the pixels whose entropy belongs to the certain Gaussian of their class."""

    gmm_scope: Literal["image", "dataset"] = "image"
    """One mixture an image and class (the paper's best reading), or one a class over the target set."""
    soft: bool = False
    """Weigh pixels by the posterior of the certain component, instead of keeping those above 1/2."""
    guard: bool = True
    """Also keep entropies below the certain mean, where a wide uncertain Gaussian may overtake a narrow certain one."""
    min_pixels: int = Field(default=100, ge=2)
    """A class with fewer pixels in an image uses the target set's mixture."""
    bins: int = Field(default=256, ge=16, le=4096)
    """Bins of [0, 1] that entropies are gathered in."""
    iterations: int = Field(default=100, ge=1)
    tolerance: float = Field(default=1e-6, gt=0)
    """Of the mean log-likelihood."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> EntropyMixture:
        return EntropyMixture(self, space.num_classes)


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
            new_counts, new_moments = self._gather(normalized_entropy(probs), probs.max(dim=1).indices)
            counts += new_counts.sum(dim=0)
            moments += new_moments.sum(dim=0)
        self.counts.copy_(counts)
        self.moments.copy_(moments)

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        # ``max`` finds the same label as ``argmax`` in a third of the time.
        entropy, label = normalized_entropy(labels.probs), labels.probs.max(dim=1).indices
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
            pixels, _, std = _statistics(self.moments)
            rule = Rule.of(mixture, self.settings.guard)
            median = _quantile(self.counts, self._points, 0.5) + 0.5 / self.settings.bins
            rule = Rule.up_to(median).where(mixture.means.diff(dim=-1)[..., 0] < MIN_GAP, rule)
            rule = Rule.up_to(torch.full_like(median, -1.0)).where((pixels < 2) | (std < MIN_STD), rule)
            self._known = (self.counts.clone(), rule)
        return self._known[1]

    def _image_rule(self, counts: Tensor, moments: Tensor) -> Rule:
        """Rules B x C from the images' own B x C x bins counts and B x C x 3 moments."""
        pixels, mean, std = _statistics(moments)
        dataset = self.dataset_rule()
        rule = Rule(*(part.expand_as(mean) for part in dataset))
        own = (pixels >= self.settings.min_pixels).nonzero(as_tuple=True)
        if not len(own[0]):
            return rule
        mixture = self._mixtures(counts[own])
        found = Rule.of(mixture, self.settings.guard)
        highest = self._highest_kept(dataset)[own[1]]
        found = Rule.up_to(highest).where(mixture.means.diff(dim=-1)[..., 0] < MIN_GAP, found)
        _, usual, _ = _statistics(self.moments)
        constant = torch.where(mean[own] < 0.5 * usual[own[1]], 1.0, -1.0).to(mean.dtype)
        found = Rule.up_to(constant).where(std[own] < MIN_STD, found)
        return Rule(*(part.index_put(own, new) for part, new in zip((part.clone() for part in rule), found)))

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


def _statistics(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and standard deviation from ... x 3 moments; 0 where there is nothing."""
    pixels = moments[..., 0]
    size = pixels.clamp(min=1)
    mean = moments[..., 1] / size
    return pixels, mean, (moments[..., 2] / size - mean.square()).clamp(min=0).sqrt()
