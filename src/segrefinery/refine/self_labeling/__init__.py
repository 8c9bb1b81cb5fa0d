"""CPSL: pixels of the target are clustered as training goes, and the clusters rectify the labels."""

from segrefinery.refine.self_labeling.formulas import (
    balanced_positions,
    rectify,
    sinkhorn,
    uniform_positions,
    update_class_distribution,
)
from segrefinery.refine.self_labeling.refiner import SelfLabeling, SelfLabelingSettings

__all__ = [
    "SelfLabeling",
    "SelfLabelingSettings",
    "balanced_positions",
    "rectify",
    "sinkhorn",
    "uniform_positions",
    "update_class_distribution",
]
