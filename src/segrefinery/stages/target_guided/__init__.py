"""UncerDA's rounds: what the target finds uncertain guides which source images are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.stages.kinds import TargetGuidedSettings

if TYPE_CHECKING:
    from segrefinery.stages.target_guided.formulas import class_entropies, class_gains, uncertain_classes
    from segrefinery.stages.target_guided.record import FILE, RoundRecord, settled
    from segrefinery.stages.target_guided.rounds import TargetGuided

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="class_entropies class_gains uncertain_classes",
        record="FILE RoundRecord settled",
        rounds="TargetGuided",
    ),
)

__all__ = [
    "FILE",
    "RoundRecord",
    "TargetGuided",
    "TargetGuidedSettings",
    "class_entropies",
    "class_gains",
    "settled",
    "uncertain_classes",
]
