"""PRN: a network that learned on spoiled source predictions to mend the teacher's labels and to mask what it doubts."""

from segrefinery.refine.refinement_network.refiner import RefinementNetwork, RefinementNetworkSettings

__all__ = ["RefinementNetwork", "RefinementNetworkSettings"]
