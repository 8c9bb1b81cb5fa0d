"""PRN: a network that learned on spoiled source predictions to mend the teacher's labels and to mask what it doubts."""

from segrefinery.refine.refinement_network.formulas import noise_mask_loss
from segrefinery.refine.refinement_network.network import Refinement, RefinementDecoder
from segrefinery.refine.refinement_network.perturbation import Perturbation, perturb
from segrefinery.refine.refinement_network.refiner import RefinementNetwork, RefinementNetworkSettings

__all__ = [
    "Perturbation",
    "Refinement",
    "RefinementDecoder",
    "RefinementNetwork",
    "RefinementNetworkSettings",
    "noise_mask_loss",
    "perturb",
]
