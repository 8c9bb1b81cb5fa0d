"""IR2F: an implicit function says at any coordinate which classifier to trust how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.implicit_rectification.settings import ImplicitRectificationSettings

if TYPE_CHECKING:
    from segrefinery.refine.implicit_rectification.formulas import log_mixture, mixture_nll
    from segrefinery.refine.implicit_rectification.function import ImplicitRectification
    from segrefinery.refine.implicit_rectification.refiner import ImplicitRectifier

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="log_mixture mixture_nll",
        function="ImplicitRectification",
        refiner="ImplicitRectifier",
    ),
)

__all__ = ["ImplicitRectification", "ImplicitRectificationSettings", "ImplicitRectifier", "log_mixture", "mixture_nll"]
