"""CPSL: pixels of the target are clustered as training goes, and the clusters rectify the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.self_labeling.settings import SelfLabelingSettings

if TYPE_CHECKING:
    from segrefinery.refine.self_labeling.formulas import (
        balanced_positions,
        rectify,
        sinkhorn,
        uniform_positions,
        update_class_distribution,
    )
    from segrefinery.refine.self_labeling.refiner import SelfLabeling

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="balanced_positions rectify sinkhorn uniform_positions update_class_distribution",
        refiner="SelfLabeling",
    ),
)

__all__ = [
    "SelfLabeling",
    "SelfLabelingSettings",
    "balanced_positions",
    "rectify",
    "sinkhorn",
    "uniform_positions",
    "update_class_distribution",
]
