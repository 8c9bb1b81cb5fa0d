"""SegRefinery adapts a semantic-segmentation model to images nobody has labelled.

The verbs: ``adapt``, ``evaluate``, ``load``, ``predict``. Everything else is in the rooms below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segrefinery.api import adapt, evaluate, load, predict

__all__ = ["adapt", "evaluate", "load", "predict"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # the networks load only when a verb is used, so that the command line answers at once
        from segrefinery import api

        return getattr(api, name)
    raise AttributeError(f"module 'segrefinery' has no attribute {name!r}")
