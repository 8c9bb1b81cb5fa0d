"""Networks: the words they speak, the table of those we know, the teacher, and models as folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.models.networks import NETWORKS, ModelSettings, RunModelSettings
from segrefinery.models.settings import TeacherSettings

if TYPE_CHECKING:
    from segrefinery.models.build import build_model
    from segrefinery.models.foreign.wrapped import wrap
    from segrefinery.models.segmenter import Learner, Prediction, Segmenter, normalization_of
    from segrefinery.models.states import load_weights, read_state
    from segrefinery.models.teacher import Teacher, TeacherView

__getattr__ = looked_up(
    __name__,
    by_module(
        build="build_model",
        segmenter="Learner Prediction Segmenter normalization_of",
        states="load_weights read_state",
        teacher="Teacher TeacherView",
    )
    | {"wrap": "foreign.wrapped"},
)

__all__ = [
    "NETWORKS",
    "Learner",
    "ModelSettings",
    "Prediction",
    "RunModelSettings",
    "Segmenter",
    "Teacher",
    "TeacherSettings",
    "TeacherView",
    "build_model",
    "load_weights",
    "normalization_of",
    "read_state",
    "wrap",
]
