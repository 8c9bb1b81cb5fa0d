"""IR2F: an implicit function says at any coordinate which classifier to trust how much."""

from segrefinery.refine.implicit_rectification.formulas import log_mixture, mixture_nll
from segrefinery.refine.implicit_rectification.function import ImplicitRectification
from segrefinery.refine.implicit_rectification.refiner import ImplicitRectificationSettings, ImplicitRectifier

__all__ = [
    "ImplicitRectification",
    "ImplicitRectificationSettings",
    "ImplicitRectifier",
    "log_mixture",
    "mixture_nll",
]
