"""UncerDA's labels: the certain half of a mixture of entropies, instead of a threshold."""

from segrefinery.refine.entropy_mixture.refiner import (
    EntropyMixture,
    EntropyMixtureSettings,
    Mixture,
    certain_posterior,
    fit_binned,
    fit_two_gaussians,
)

__all__ = [
    "EntropyMixture",
    "EntropyMixtureSettings",
    "Mixture",
    "certain_posterior",
    "fit_binned",
    "fit_two_gaussians",
]
