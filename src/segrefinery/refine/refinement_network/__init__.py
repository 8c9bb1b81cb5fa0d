"""PRN: a network that learned on spoiled source predictions to mend the teacher's labels and to mask what it doubts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.refinement_network.settings import Perturbation, RefinementNetworkSettings

if TYPE_CHECKING:
    from segrefinery.refine.refinement_network.formulas import noise_mask_loss, perturb
    from segrefinery.refine.refinement_network.refiner import Refinement, RefinementDecoder, RefinementNetwork

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="noise_mask_loss perturb",
        refiner="Refinement RefinementDecoder RefinementNetwork",
    ),
)

__all__ = [
    "Perturbation",
    "Refinement",
    "RefinementDecoder",
    "RefinementNetwork",
    "RefinementNetworkSettings",
    "noise_mask_loss",
    "perturb",
]
