"""Networks: the words they speak, the table of those we know, the teacher, and models as folders."""

from segrefinery.models.build import NETWORKS, ModelSettings, RunModelSettings, build_model
from segrefinery.models.foreign import wrap
from segrefinery.models.segmenter import Learner, Prediction, Segmenter, normalization_of
from segrefinery.models.states import load_weights, read_state
from segrefinery.models.teacher import Teacher, TeacherSettings, TeacherView

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
