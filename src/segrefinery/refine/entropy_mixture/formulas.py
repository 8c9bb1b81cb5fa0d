"""The formulas of UncerDA: which classes the target finds uncertain, and which pixels of a class are certain.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021: eq. 1 of section 4.1, eq. 6 of section 4.2.
Eq. 2 is ``normalized_entropy`` in ``refine/confidence.py``; eq. 3 to 5, the sampling of the source, are
``soft_balance_probabilities`` in ``data/sampling.py``. The paper gives no start and no limits of the fit; ours are
named where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segrefinery.core.pixelwise import highest
from segrefinery.core.precision import wide
from segrefinery.core.resize import bilinear
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.refine.confidence import normalized_entropy

MIN_STD = 1e-3
"""Entropies that vary less are constant: nothing can be told apart."""
MIN_GAP = 0.02
"""Component means that lie closer are one component."""


# -- eq. 1: what the target finds uncertain ----------------------------------------------------------------------------


@torch.no_grad()
def class_entropies(network: nn.Module, target: Iterable[UnlabeledBatch], upsample: bool = True) -> Tensor:
    """Mean normalised entropy of the target pixels predicted as each class (eq. 1), float64 C; streams.

    A class that is never predicted counts as most uncertain: 1. (Our choice; the paper is silent.)

    Args:
        network: image -> ``Prediction``.
        upsample: take the pixels of the image (the paper's protocol) or of the network's own grid, which is cheaper.
    """
    pixels = sums = torch.zeros(0)
    for batch in target:
        prediction = network(batch.image)
        logits = prediction.logits.float()
        if upsample:
            logits = bilinear(logits, batch.image.shape[-2:], prediction.aligned)
        probs = logits.softmax(dim=1)
        entropy, label = normalized_entropy(probs), highest(probs)
        known = entropy.isfinite()
        if not len(pixels):
            pixels, sums = torch.zeros(2, probs.shape[1], dtype=torch.float64, device=probs.device)
        pixels = pixels + torch.bincount(label[known], minlength=len(pixels))
        sums = sums + torch.bincount(label[known], weights=entropy[known].double(), minlength=len(pixels))
    return torch.where(pixels > 0, sums / pixels.clamp(min=1), 1.0)


def uncertain_classes(entropies: Tensor, k: int = 7) -> list[int]:
    """S_k: ids of the k classes with the highest entropy, the worst first; ties go to the lower id, and all classes are
    uncertain where k exceeds their number."""
    if k < 1:
        raise ValueError(f"k: at least 1 expected, got {k}")
    return torch.argsort(entropies, descending=True, stable=True)[:k].tolist()


def class_gains(pixel_counts: Tensor, probabilities: Tensor) -> Tensor:
    """C: how many times as often a pixel of each class is seen as under uniform sampling; NaN for a class without any.

    Args:
        pixel_counts: N x C pixels of each class in each image.
        probabilities: N sampling probabilities that sum to 1.
    """
    counts = pixel_counts.double()
    return (probabilities.double() @ counts) / counts.mean(dim=0)


# -- eq. 6: mixtures of two Gaussians over entropies -------------------------------------------------------------------


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


# -- which entropies of a class are kept: what a mixture says, and rules of ours where it cannot say anything ----------


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
        return Rule(*(torch.where(condition, mine, new) for mine, new in zip(self, other)))

    def weight(self, entropy: Tensor, pick: tuple[Tensor, ...], soft: bool) -> Tensor:
        """Weight of each entropy, under the rule found at ``pick``; 0 for NaN."""
        a, b, c, limit = (part[pick].to(entropy.dtype) for part in self)
        posterior = torch.sigmoid((a * entropy + b) * entropy + c)
        chosen = posterior if soft else (posterior > 0.5).to(entropy.dtype)
        return torch.where(entropy <= limit, 1.0, chosen).masked_fill(entropy.isnan(), 0.0)


def quantile(counts: Tensor, points: Tensor, share: float) -> Tensor:
    """R weighted quantiles of the sorted points: the first that reaches the share."""
    reached = counts.cumsum(dim=1) >= share * counts.sum(dim=1, keepdim=True)
    return points[reached.int().argmax(dim=1)]


def statistics(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and standard deviation from ... x 3 moments; 0 where there is nothing."""
    pixels = moments[..., 0]
    size = pixels.clamp(min=1)
    mean = moments[..., 1] / size
    return pixels, mean, (moments[..., 2] / size - mean.square()).clamp(min=0).sqrt()
