"""A run: the stages of a recipe, one after the other, each from the weights the last one left."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segrefinery.core.errors import explained_if_out_of_memory
from segrefinery.core.randomness import seed_of
from segrefinery.engine.checkpoints import Checkpoints, step_of
from segrefinery.engine.compilation import compile_networks, uncompiled
from segrefinery.engine.events import RunEvents, StageEnd, prepared_name
from segrefinery.engine.feed import Feed
from segrefinery.engine.finished import FinishedStages
from segrefinery.engine.fits import refuse_one_learner, refuse_unfit_batches, warn_of_random_reference
from segrefinery.engine.keys import Setup, StageKeys, digest
from segrefinery.engine.loop import LoopSettings, train
from segrefinery.engine.start import START, BroughtSettings, Start
from segrefinery.engine.tracker import Tracker
from segrefinery.models import ModelSettings
from segrefinery.models.segmenter import Segmenter, reading
from segrefinery.models.start import new_network
from segrefinery.refine import Refiner
from segrefinery.stages.base import Stage, StageContext
from segrefinery.stages.settings import StageSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PASSES_NEED_LESS = (
    "a pass over a data set looks at whole images: start a new run with smaller ones (data.short_side, "
    "target_data.short_side)"
)


@dataclass
class Planned:
    """A stage about to run.

    Attributes:
        name, settings: of the stage. key: all that determines its result.
        model: the settings of its network. stage: built, not yet trained.
        feed: its batches and passes. source_only: whether its network has seen nothing but the source.
    """

    name: str
    settings: StageSettings
    key: str
    model: ModelSettings
    stage: Stage
    feed: Feed
    source_only: bool

    def end(self) -> StageEnd:
        """The stage as it is now, to be looked at."""
        acting = (part for part, module in self.stage.handed_on().items() if acts_at_inference(module))
        predictor = self.stage.predictor().eval()
        return StageEnd(self.name, self.settings, self.model, predictor, self.source_only, tuple(acting))

    def prepared(self) -> StageEnd:
        """The same before the first step: a model of its own, that may be shipped."""
        settings = self.settings.model_copy(update={"steps": 0})
        return replace(self.end(), name=prepared_name(self.name), settings=settings)


@dataclass(kw_only=True)
class Run(Setup):
    """Everything that determines the result, and the folder it goes to."""

    folder: Path
    stages: dict[str, StageSettings]
    fabric: Fabric
    tracker: Tracker
    events: RunEvents
    reuse: Path | None = None
    """Where finished stages are shared, or the run to take them from (see ``FinishedStages``)."""
    start: Start | None = None
    """The trained model to start from, whose network is that of ``model``; None for a new one."""
    finished: FinishedStages = field(init=False)

    def __post_init__(self) -> None:
        self.finished = FinishedStages(self.folder / "stages", self.fabric, self.reuse)

    def execute(self) -> None:
        """Train every stage that is not finished yet."""
        if self.start is not None:
            network = self.new_model(self.model).eval()
            self.events.ended(StageEnd(START, BroughtSettings(), self.model, network, source_only=True))
        for planned in self.planned():
            if not self.is_finished(planned):
                self.train(planned)
                self.finished.save(planned.name, planned.key, planned.stage)
            self.checkpoints(planned).clear()
            if planned.settings.hands_on_model:
                with uncompiled(self.training.compile):
                    self.events.ended(planned.end())
        self.events.concluded()

    def planned(self) -> Iterator[Planned]:
        """The stages in order, each built from what the one before has left by the time it is asked for."""
        start = self.start and self.start.fingerprint
        shared = {part.name: getattr(self, part.name) for part in fields(Setup)}
        keys = StageKeys(**shared, model_brought=start)
        feed = self.feed()
        model_settings, initial = self.model, self.new_model(self.model)
        for name, settings in self.stages.items():
            if settings.model is None:
                self.refuse_unfit(name, settings, self.model, initial)
        previous, handed_on = copy.deepcopy(initial), dict[str, dict[str, Tensor]]()
        chain, source_only = keys.start, True
        for name, settings in plan(self.stages).items():
            key = keys.of(chain, name, settings, handed_on)
            chain = digest(chain, key)
            source_only = source_only and settings.source_only and self.sets.labels_for(settings) is None
            if settings.start == "fresh":
                model_settings = settings.model or self.model
                model, initial = self.new_model(model_settings), self.new_model(model_settings)
                self.refuse_unfit(name, settings, model_settings, model)
            else:
                model = copy.deepcopy(previous)
            if not self.is_brought(model_settings):
                warn_of_random_reference(name, settings, model_settings)
            own_feed = feed.read_by(model.normalization)
            pixels = own_feed.data.normalization
            if pixels != self.data.read_by(previous.normalization).normalization:
                previous = reading(previous, pixels)
            torch.manual_seed(seed_of(self.seed, name, "build"))
            new = settings.start == "fresh" and not self.is_brought(model_settings)
            context = StageContext(model, previous, initial, self.sets.space, handed_on, pixels, new)
            stage = settings.build(context)
            yield Planned(name, settings, key, model_settings, stage, own_feed, source_only)
            handed_on |= {part: module.state_dict() for part, module in stage.handed_on().items()}
            if settings.hands_on_model:
                previous = stage.model

    def is_finished(self, planned: Planned) -> bool:
        """Whether the stage's result is there, of this run or of another, and loaded. A stage that is to be looked at
        on its way is never taken from another run, which may not have looked."""
        if self.look_every(planned.settings) == 0 and not self.look_first(planned):
            shared = self.finished.take(planned.name, planned.key)
            if shared is not None:
                self.tracker.write(planned.name, planned.settings.steps, "note", {"text": f"taken from {shared}"})
        return self.finished.load(planned.name, planned.key, planned.stage)

    def train(self, planned: Planned) -> None:
        """Train a stage to its end, from its newest checkpoint if it has one."""
        name, settings, stage, feed = planned.name, planned.settings, planned.stage, planned.feed
        checkpoints, folder = self.checkpoints(planned), self.folder / "stages" / name
        prepared = dict[str, float]()
        if self.fabric.global_rank == 0 and not checkpoints.paths():
            torch.manual_seed(seed_of(self.seed, name, "prepare"))
            stage.to(self.fabric.device).eval()
            with explained_if_out_of_memory(f"stage {name!r}, before its first step", PASSES_NEED_LESS):
                stage.prepare(feed.passes(name, folder))
            prepared = stage.numbers()
        stage.nothing_to_do = self.fabric.broadcast(stage.nothing_to_do)
        if stage.nothing_to_do:
            self.tracker.write(name, 0, "note", {"text": f"not trained: {stage.nothing_to_do}"})
            return
        ended = {START} | {other for other in plan(self.stages) if self.finished.path(other).exists()}
        self.tracker.rewind(ended | {prepared_name(each) for each in (*ended, name)}, name, latest_step(checkpoints))
        if prepared:
            self.tracker.write(name, 0, "train", prepared)
        options = self.training
        loop = LoopSettings(
            settings.steps, self.seed, options.clip_norm, options.accumulate, options.checkpoint_every,
            options.log_every, self.look_every(settings), options.on_collapse, self.look_first(planned),
        )  # fmt: skip
        batches = partial(feed.batches, name, settings, stage, folder)
        compile_networks(stage, options.compile)
        train(
            self.fabric, name, stage, loop, batches, checkpoints, self.tracker,
            partial(self.events.progressed, name), partial(self.look, planned),
        )  # fmt: skip

    # -- what these are made of ----------------------------------------------------------------------------------------

    def feed(self) -> Feed:
        read = self.sets.cached(self.data, self.target_data)
        return Feed(
            self.sets, read, self.data, self.target_data, self.seed, self.fabric.global_rank, self.fabric.world_size,
            self.fabric.device, self.events,
        )  # fmt: skip

    def look(self, planned: Planned, step: int) -> None:
        with uncompiled(self.training.compile):
            if step == 0:
                self.events.ended(planned.prepared())
            else:
                self.events.looked(planned.end(), step)

    def look_every(self, settings: StageSettings) -> int:
        """Steps between looks in a stage; training on the source alone is only looked at when it ends."""
        return 0 if settings.source_only else self.training.look_every

    def look_first(self, planned: Planned) -> bool:
        """Whether the model that a stage prepares is a candidate to be shipped."""
        return self.training.choose == "score" and planned.stage.prepares_model and planned.settings.hands_on_model

    def checkpoints(self, planned: Planned) -> Checkpoints:
        main = self.fabric.global_rank == 0
        return Checkpoints(self.folder / "checkpoints", planned.name, self.training.keep, main, planned.key)

    def new_model(self, settings: ModelSettings) -> Segmenter:
        """A network as its settings describe it: pre-trained weights, and the same random ones for the same seed; or
        the trained model that the run starts from."""
        if self.start is not None and self.is_brought(settings):
            return copy.deepcopy(self.start.network).to(self.fabric.device)
        torch.manual_seed(seed_of(self.seed, "model"))
        return new_network(settings, self.sets.space.classes).to(self.fabric.device)

    def is_brought(self, settings: ModelSettings) -> bool:
        """Whether these are the settings of the trained model that the run starts from."""
        return self.start is not None and settings == self.model

    def refuse_unfit(self, name: str, settings: StageSettings, model: ModelSettings, network: Segmenter) -> None:
        refuse_one_learner(name, settings, network, model.name)
        parts = self.fabric.world_size * self.training.accumulate
        refuse_unfit_batches(name, settings, network, (self.data, self.target_data), parts)


def acts_at_inference(module: nn.Module) -> bool:
    return isinstance(module, Refiner) and type(module).predictor is not Refiner.predictor


def plan(stages: dict[str, StageSettings]) -> dict[str, StageSettings]:
    """Stages with their generations and rounds written out: ``adapt`` with three becomes ``adapt-1`` to ``adapt-3``."""
    steps: dict[str, StageSettings] = {}
    for name, settings in stages.items():
        times = settings.repeats
        for number in range(1, times + 1):
            steps[name if times == 1 else f"{name}-{number}"] = settings.repeated(number)
    return steps


def latest_step(checkpoints: Checkpoints) -> int:
    paths = checkpoints.paths()
    return step_of(paths[-1]) if paths else 0
