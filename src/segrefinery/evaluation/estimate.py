"""mIoU of models from a few labelled images, with intervals by drawing the images again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segrefinery.core.randomness import generator

DRAWS = 2000


@dataclass
class Scored:
    """What labelled images say of one model.

    Attributes:
        miou: estimate over what the images stand for, in [0, 1]; interval: 95 % of a bootstrap over images within their
            strata.
        difference, difference_interval: against the reference model on the same draws; None for itself.
    """

    name: str
    miou: float
    interval: tuple[float, float]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


def estimates(
    counts: Mapping[str, Tensor],
    weights: Sequence[float],
    strata: Sequence[int],
    reference: str | None,
    left_out: Sequence[int] = (),
) -> list[Scored]:
    """mIoU of each model from its N x C x C counts, and intervals from the same draws for all.

    Args:
        weights: how many images each of the N stands for. strata: which were drawn from one another.
        reference: the model that the others are compared with, or None.
        left_out: ids of classes that the labels cannot show; see ``scores_of``.
    """
    stands_for = torch.tensor(weights, dtype=torch.float64)
    draws = stratified_draws(strata) * stands_for
    value = {name: float(miou(stands_for, matrices, left_out)) for name, matrices in counts.items()}
    drawn = {name: miou(draws, matrices, left_out) for name, matrices in counts.items()}
    scored = []
    for name in counts:
        one = Scored(name, value[name], interval(drawn[name]))
        if reference is not None and name != reference:
            one.difference = value[name] - value[reference]
            one.difference_interval = interval(drawn[name] - drawn[reference])
        scored.append(one)
    return scored


def miou(weights: Tensor, counts: Tensor, left_out: Sequence[int] = ()) -> Tensor:
    """Mean IoU over the classes that occur and are not left out, of N x C x C counts weighted by ... x N."""
    summed = torch.tensordot(weights, counts.double(), dims=1)
    hits = summed.diagonal(dim1=-2, dim2=-1)
    union = summed.sum(-1) + summed.sum(-2) - hits
    union[..., list(left_out)] = 0
    return torch.where(union > 0, hits / union.clamp(min=1e-9), torch.nan).nanmean(dim=-1)


def stratified_draws(strata: Sequence[int], draws: int = DRAWS) -> Tensor:
    """draws x N float64: how often each image was drawn, each stratum drawn from itself."""
    place = torch.tensor(strata)
    result = torch.zeros(draws, len(place), dtype=torch.float64)
    for stratum in sorted(set(strata)):
        members = (place == stratum).nonzero()[:, 0]
        picked = torch.randint(len(members), (draws, len(members)), generator=generator("audit draws", stratum))
        result[:, members] = torch.nn.functional.one_hot(picked, len(members)).sum(dim=1).double()
    return result


def interval(values: Tensor) -> tuple[float, float]:
    """The middle 95 % of the values."""
    low, high = torch.nanquantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
