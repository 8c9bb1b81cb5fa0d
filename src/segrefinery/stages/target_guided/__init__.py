"""UncerDA's rounds: what the target finds uncertain guides which source images are drawn."""

from segrefinery.stages.target_guided.formulas import class_entropies, class_gains, uncertain_classes
from segrefinery.stages.target_guided.record import FILE, RoundRecord, settled
from segrefinery.stages.target_guided.rounds import TargetGuided, TargetGuidedSettings

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
