"""SegRefinery adapts a semantic-segmentation model to images nobody has labelled.

The verbs are in ``segrefinery.verbs``, one file each; ``load`` opens what a run left, ``RunEvents`` is what it tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import looked_up

if TYPE_CHECKING:
    from segrefinery.core.version import __version__ as __version__
    from segrefinery.engine.events import RunEvents
    from segrefinery.engine.model import load
    from segrefinery.verbs.adapt import adapt
    from segrefinery.verbs.audit import audit
    from segrefinery.verbs.check import check
    from segrefinery.verbs.compare import compare
    from segrefinery.verbs.evaluate import evaluate
    from segrefinery.verbs.export import export
    from segrefinery.verbs.predict import predict
    from segrefinery.verbs.pseudo_label import pseudo_label
    from segrefinery.verbs.push import push
    from segrefinery.verbs.report import report

__all__ = [
    "RunEvents",
    "adapt",
    "audit",
    "check",
    "compare",
    "evaluate",
    "export",
    "load",
    "predict",
    "pseudo_label",
    "push",
    "report",
]
_PLACES = {"RunEvents": "engine.events", "load": "engine.model", "__version__": "core.version"}
"""Where what is no verb lives; a verb has a file of its own."""


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# The networks load only when a verb is used, so that the command line answers at once.
__getattr__ = looked_up(__name__, {name: f"verbs.{name}" for name in __all__} | _PLACES)
