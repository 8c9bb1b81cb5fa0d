"""SegRefinery adapts a semantic-segmentation model to images nobody has labelled.

The verbs: ``adapt``, ``evaluate``, ``load``, ``predict``, ``pseudo_label``. Everything else is in the rooms below:
``segrefinery.verbs.compare``, ``segrefinery.verbs.audit``, ``segrefinery.data.check``, ``segrefinery.report``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segrefinery.verbs.api import adapt, evaluate, load, predict, pseudo_label

__all__ = ["adapt", "evaluate", "load", "predict", "pseudo_label"]
__version__ = version("segrefinery")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name in __all__:  # the networks load only when a verb is used, so that the command line answers at once
        from segrefinery.verbs import api

        return getattr(api, name)
    raise AttributeError(f"module 'segrefinery' has no attribute {name!r}")
