"""Whose statistics a model that no source holds should normalise by: the target's, or the mean of them and its own.

The target's alone mend a change of the light, and cost points from a simulator to a camera, where classes have other
shares; the label-free score tells the two apart (``benchmarks/trust/norm_statistics.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from segrefinery.evaluation.trust.collect import Observation
from segrefinery.evaluation.trust.verdict import expected_classes, trust
from segrefinery.models.batch_norm import measure_statistics, running_statistics

log = logging.getLogger(__name__)

KEPT = (0.5, 0.0)
"""Weights of the model's own statistics beside the target's (Schneider et al., "Improving robustness against common
corruptions by covariate shift adaptation", NeurIPS 2020)."""


@torch.no_grad()
def choose_statistics(
    network: nn.Module, images: Iterable[Tensor], look: Callable[[nn.Module], Observation]
) -> dict[float, float]:
    """Give the network's batch norms the statistics that the label-free score ranks highest.

    Args:
        images: of the target, batches of B x 3 x H x W, walked once.
        look: what the network says of the target; called with its own statistics, then with each of ``KEPT``.

    Returns:
        Weight of its own statistics -> score; the highest is in force, of equals the one that keeps more. Empty without
        a batch norm, and nothing is looked at then.
    """
    running = running_statistics(network)
    if not running:
        return {}
    before = [buffer.clone() for buffer in running]
    reference = look(network)
    measure_statistics(network, images)
    measured = [buffer.clone() for buffer in running]

    def put_in_force(kept: float) -> None:
        for buffer, brought, new in zip(running, before, measured, strict=True):
            buffer.copy_(new.lerp(brought, kept))

    looks: dict[float, Observation] = {}
    for kept in KEPT:
        put_in_force(kept)
        looks[kept] = look(network)
    expected = expected_classes(reference, *looks.values())
    scores = {kept: float(trust(observed, reference, expected)) for kept, observed in looks.items()}
    best = max(KEPT, key=scores.__getitem__)
    put_in_force(best)
    told = ", ".join(f"{kept:g}: {score:.3f}" for kept, score in scores.items())
    log.info("batch norm keeps %g of the model's own statistics; label-free scores %s", best, told)
    return scores
