"""ProDA: soft labels re-weighted by the distance of a pixel's features to the classes' prototypes."""

from segrefinery.refine.prototypes.formulas import move_prototypes, prototype_distances, prototype_weights
from segrefinery.refine.prototypes.refiner import Prototypes, PrototypesSettings

__all__ = [
    "Prototypes",
    "PrototypesSettings",
    "move_prototypes",
    "prototype_distances",
    "prototype_weights",
]
