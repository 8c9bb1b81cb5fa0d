"""One stage of a recipe that takes steps on batches which are already loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from segrefinery.data.datasets import Remapped, UnlabeledView, open_dataset
from segrefinery.data.label_files import PseudoLabeled
from segrefinery.data.loader import WholeImages, training_batches
from segrefinery.data.sampling import UniformSampler
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.compilation import compile_networks
from segrefinery.engine.feed import OnDevice
from segrefinery.engine.gradients import GradientAverage
from segrefinery.engine.loop import LoopSettings, one_step
from segrefinery.labels import SPACES
from segrefinery.models import build_model
from segrefinery.recipe import load_recipe
from segrefinery.stages.base import Passes, Stage, StageContext
from segrefinery.stages.settings import StageSettings

STAGE = {"adaptsegnet": "align", "source_only": "source"}
"""The stage of a recipe that adapts, where it is not ``adapt``."""


class Training:
    """A recipe's adaptation on scenes of 19 classes.

    Args:
        recipe: its name, at a ``scale`` and with ``overrides``.
        size, batch: height and width of the images, and how many of each domain a step sees.
        without: a refiner to leave out.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        recipe: str,
        scale: str,
        overrides: Sequence[str],
        size: tuple[int, int],
        batch: int,
        without: str | None = None,
        device: str = "cpu",
    ) -> None:
        loaded = load_recipe(recipe, scale, overrides)
        self.settings: StageSettings = loaded.stages[STAGE.get(recipe, "adapt")]
        if without is not None:
            chain = {name: one for name, one in self.settings.refine.items() if name != without}  # pyright: ignore
            self.settings = self.settings.model_copy(update={"refine": chain})
        space = SPACES["cityscapes"]
        self.fabric = Fabric(accelerator=device, devices=1, precision=loaded.training.precision)
        self.loop = LoopSettings(self.settings.steps, clip_norm=loaded.training.clip_norm)
        torch.manual_seed(0)
        model = build_model(loaded.model, space.num_classes)
        self.stage: Stage = self.settings.build(StageContext(model, deepcopy(model), deepcopy(model), space))
        self.stage.to(self.fabric.device)
        data = DataSettings(short_side=min(size), crop=size, batch=batch, workers=0)
        scenes = [f"scenes:{look},count=8,size={size[0]}x{size[1]}" for look in ("day", "night")]
        sets = [Remapped(open_dataset(scenes[0]), space), UnlabeledView(open_dataset(scenes[1]))]
        self.stage.eval()
        with tempfile.TemporaryDirectory() as folder:
            passes = (OnDevice(WholeImages(one, data, batch), self.fabric.device) for one in sets)
            names = [sets[1].name(index) for index in range(len(sets[1]))]
            self.stage.prepare(Passes(*passes, folder=Path(folder), target_names=names))
            if (written := self.stage.target_labels(Path(folder))) is not None:
                sets[1] = PseudoLabeled(sets[1], written)
            self.batches = cycle(zip(*(loaded_batches(one, data) for one in sets), repeat(None)))
        compile_networks(self.stage, loaded.training.compile)
        self.trained = self.stage.train().optimizers()
        self.average = GradientAverage(self.fabric, self.stage, self.trained)
        self.number = 0

    def step(self) -> None:
        one_step(
            self.fabric, "cost", self.stage, self.trained, self.loop, self.number, next(self.batches), self.average
        )
        self.number += 1


def loaded_batches(dataset: Any, data: DataSettings) -> list[Any]:
    """Four batches of a set of eight images."""
    return list(training_batches(dataset, data, UniformSampler(8, 0), steps=4))
