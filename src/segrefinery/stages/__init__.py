"""Stages: what is trained, by which losses, with which optimizers. ``STAGES`` is the table recipes choose from."""

from __future__ import annotations

from segrefinery.stages.adversarial import AdversarialSettings
from segrefinery.stages.base import StageSettings
from segrefinery.stages.distillation import DistillationSettings
from segrefinery.stages.entropy_minimization import EntropyMinimizationSettings
from segrefinery.stages.self_training import SelfTrainingSettings
from segrefinery.stages.supervised import SupervisedSettings

STAGES: dict[str, type[StageSettings]] = {
    "supervised": SupervisedSettings,
    "adversarial": AdversarialSettings,
    "self_training": SelfTrainingSettings,
    "distillation": DistillationSettings,
    "entropy_minimization": EntropyMinimizationSettings,
}
