"""Which entropies of a class are kept: what a mixture says, and rules of ours where it cannot say anything."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from segrefinery.refine.entropy_mixture.formulas import Mixture

MIN_STD = 1e-3
"""Entropies that vary less are constant: nothing can be told apart."""
MIN_GAP = 0.02
"""Component means that lie closer are one component."""


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
