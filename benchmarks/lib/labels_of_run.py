"""The teacher and the chain of refiners of a finished run's last self-training stage, rebuilt from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from segrefinery.data.transforms import DataSettings
from segrefinery.engine.checkpoints import load_safely, restore_module
from segrefinery.engine.run import plan
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, Segmenter, build_model
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.recipe import load_recipe
from segrefinery.refine.base import PseudoLabels, Refiner
from segrefinery.stages.base import StageContext
from segrefinery.stages.common import build_refiners
from segrefinery.stages.self_training import SelfTrainingSettings
from segrefinery.verbs.sets import open_sets

Moment = Literal["start", "end"]


@dataclass
class Labeller:
    """All that labels of a run are made of.

    Attributes:
        name: the run's recipe, the stage and the moment its teacher is of.
        data: how target images are read.
    """

    name: str
    space: LabelSpace
    data: DataSettings
    teacher: Teacher
    chain: list[Refiner]

    def labels(self, view: TeacherView) -> PseudoLabels:
        labels = PseudoLabels.from_view(view)
        for refiner in self.chain:
            labels = refiner(view, labels)
        return labels


def labeller_of(run: Path, moment: Moment | None = None) -> Labeller:
    """The labeller of a run folder.

    Args:
        moment: whose network is the teacher: ``start`` of the stage, or its ``end``; by default the start where the
            stage's labels were made once, the end where they were made as it went.
    """
    recipe = load_recipe(run / "recipe.yaml")
    space = open_sets(recipe).space
    steps = plan(recipe.stages)
    adapting = [name for name, settings in steps.items() if isinstance(settings, SelfTrainingSettings)]
    if not adapting:
        raise SystemExit(f"{run}: the recipe {recipe.name} has no self-training stage")
    last = adapting[-1]
    settings = steps[last]
    assert isinstance(settings, SelfTrainingSettings)
    moment = moment or ("start" if settings.labels == "offline" else "end")
    before = [name for name in list(steps)[: list(steps).index(last)] if hands_on_its_model(steps[name])]
    stage = last if moment == "end" or not before else before[-1]

    built = model_of(recipe.model, steps, last)
    context = StageContext(new(built, space), new(built, space), new(built, space), space)
    refiners = build_refiners(settings.refine, context)
    path = run / "stages" / last / "result.pt"
    for name, state in load_safely(path)["handed_on"].items():
        restore_module(refiners[name], state, path)
    network = new(model_of(recipe.model, steps, stage), space)
    path = run / "stages" / stage / "result.pt"
    restore_module(network, load_safely(path)["model"], path)
    teacher = Teacher(network, settings.teacher)
    chain = [one.eval() for one in refiners.values() if isinstance(one, Refiner)]
    data = recipe.target_data.read_by(network.normalization)
    return Labeller(f"{recipe.name}: {last}, teacher at its {moment}", space, data, teacher, chain)


def hands_on_its_model(settings: object) -> bool:
    return getattr(settings, "hands_on", "model") == "model"


def model_of(first: ModelSettings, steps: dict, stage: str) -> ModelSettings:
    """The settings of a stage's network: of the last fresh start up to it."""
    model = first
    for name, settings in steps.items():
        if settings.start == "fresh":
            model = settings.model or first
        if name == stage:
            break
    return model


def new(model: ModelSettings, space: LabelSpace) -> Segmenter:
    torch.manual_seed(0)
    return build_model(model.model_copy(update={"weights": "none"}), space.num_classes).eval()
