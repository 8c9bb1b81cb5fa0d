"""ProDA: soft labels re-weighted by the distance of a pixel's features to the classes' prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.prototypes.settings import PrototypesSettings

if TYPE_CHECKING:
    from segrefinery.refine.prototypes.formulas import move_prototypes, prototype_distances, prototype_weights
    from segrefinery.refine.prototypes.refiner import Prototypes

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="move_prototypes prototype_distances prototype_weights",
        refiner="Prototypes",
    ),
)

__all__ = ["Prototypes", "PrototypesSettings", "move_prototypes", "prototype_distances", "prototype_weights"]
