"""UncerDA's labels: the certain half of a mixture of entropies, instead of a threshold."""

from segrefinery.refine.entropy_mixture.formulas import Mixture, certain_posterior, fit_binned, fit_two_gaussians
from segrefinery.refine.entropy_mixture.refiner import EntropyMixture, EntropyMixtureSettings

__all__ = [
    "EntropyMixture",
    "EntropyMixtureSettings",
    "Mixture",
    "certain_posterior",
    "fit_binned",
    "fit_two_gaussians",
]
