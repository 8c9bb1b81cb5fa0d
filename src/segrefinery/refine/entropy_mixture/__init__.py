"""UncerDA: the target's uncertain classes guide the source, the certain half of a mixture of entropies is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.entropy_mixture.settings import EntropyMixtureSettings, TargetGuidedSettings

if TYPE_CHECKING:
    from segrefinery.refine.entropy_mixture.formulas import (
        Mixture,
        certain_posterior,
        class_entropies,
        class_gains,
        fit_binned,
        fit_two_gaussians,
        uncertain_classes,
    )
    from segrefinery.refine.entropy_mixture.refiner import EntropyMixture

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="Mixture certain_posterior class_entropies class_gains fit_binned fit_two_gaussians uncertain_classes",
        refiner="EntropyMixture",
    ),
)

__all__ = [
    "EntropyMixture",
    "EntropyMixtureSettings",
    "Mixture",
    "TargetGuidedSettings",
    "certain_posterior",
    "class_entropies",
    "class_gains",
    "fit_binned",
    "fit_two_gaussians",
    "uncertain_classes",
]
