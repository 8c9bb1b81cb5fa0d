"""UncerDA's labels: the certain half of a mixture of entropies, instead of a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.entropy_mixture.settings import EntropyMixtureSettings

if TYPE_CHECKING:
    from segrefinery.refine.entropy_mixture.formulas import Mixture, certain_posterior, fit_binned, fit_two_gaussians
    from segrefinery.refine.entropy_mixture.refiner import EntropyMixture

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="Mixture certain_posterior fit_binned fit_two_gaussians",
        refiner="EntropyMixture",
    ),
)

__all__ = [
    "EntropyMixture",
    "EntropyMixtureSettings",
    "Mixture",
    "certain_posterior",
    "fit_binned",
    "fit_two_gaussians",
]
