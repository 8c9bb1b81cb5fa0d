"""Stages: what is trained, by which losses, with which optimizers. ``STAGES`` is the table recipes choose from."""

from __future__ import annotations

from segrefinery.stages.kinds import (
    AdversarialSettings,
    DistillationSettings,
    EntropyMinimizationSettings,
    SelfTrainingSettings,
    SupervisedSettings,
)
from segrefinery.stages.settings import StageSettings

STAGES: dict[str, type[StageSettings]] = {
    "supervised": SupervisedSettings,
    "adversarial": AdversarialSettings,
    "self_training": SelfTrainingSettings,
    "distillation": DistillationSettings,
    "entropy_minimization": EntropyMinimizationSettings,
}
