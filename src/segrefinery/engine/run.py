"""A run: the stages of a recipe, one after the other, each from the weights the last one left."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segrefinery.core.errors import explained_if_out_of_memory
from segrefinery.core.randomness import seed_of
from segrefinery.data.label_files import PseudoLabeled
from segrefinery.data.loader import Pass, WithTranslations, training_batches, with_cache
from segrefinery.data.sampling import RareClassSampler, Sampler, UniformSampler, WeightedSampler
from segrefinery.data.scan import class_pixel_counts, fingerprint
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.checkpoints import FORMAT, Checkpoints, load_safely, load_state, save_state, step_of
from segrefinery.engine.compilation import compile_networks, uncompiled
from segrefinery.engine.environment import code_digest
from segrefinery.engine.fits import refuse_unfit_batches
from segrefinery.engine.loop import Hooks, LoopSettings, Pair, train
from segrefinery.engine.settings import TrainingSettings
from segrefinery.engine.tracker import Tracker
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.segmenter import Segmenter, reading
from segrefinery.refine import Refiner
from segrefinery.stages.base import Passes, Stage, StageContext, StageSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PASSES_NEED_LESS = (
    "a pass over a data set looks at whole images: start a new run with smaller ones (data.short_side, "
    "target_data.short_side)"
)


@dataclass
class RunData:
    """The data sets of a run, already in the run's label space.

    Attributes:
        source: labelled. target: without labels. oracle: the target's labels, for a stage that is named so, or None.
        evaluation: labelled images of the target domain that no training sees, or None.
        translated: the source's images in the target's style, by the folder that a stage's translation names.
    """

    source: Any
    target: Any
    space: LabelSpace
    evaluation: Any | None = None
    oracle: Any | None = None
    translated: dict[str, Any] = field(default_factory=dict)

    def cached(self, data: DataSettings, target_data: DataSettings) -> RunData:
        """The same sets, what is trained on held in memory if the settings ask for it."""
        oracle = None if self.oracle is None else with_cache(self.oracle, target_data)
        translated = {folder: with_cache(images, data) for folder, images in self.translated.items()}
        source, target = with_cache(self.source, data), with_cache(self.target, target_data)
        return replace(self, source=source, target=target, oracle=oracle, translated=translated)


@dataclass
class StageEnd:
    """What a finished stage leaves to whoever looks at it.

    Attributes:
        name: of the stage; ``settings`` its settings; ``model`` the settings of its network.
        predictor: the network to evaluate. source_only: whether it has seen nothing but the source.
        inference_refiners: names of the refiners that are part of the predictor.
    """

    name: str
    settings: StageSettings
    model: ModelSettings
    predictor: nn.Module
    source_only: bool
    inference_refiners: tuple[str, ...] = ()


@dataclass
class Run:
    """Everything that determines the result, and the folder it goes to."""

    folder: Path
    stages: dict[str, StageSettings]
    model: ModelSettings
    data: DataSettings
    target_data: DataSettings
    training: TrainingSettings
    seed: int
    sets: RunData
    fabric: Fabric
    tracker: Tracker
    reuse: Path | None = None
    """A folder where finished stages are kept by all that determines them, and taken from instead of trained again; or
    the folder of another run, which is only taken from."""
    on_look: Callable[[StageEnd, int], None] = lambda end, step: None
    on_end: Callable[[StageEnd], None] = lambda end: None
    on_progress: Callable[[str, int, int, dict[str, float]], None] = lambda name, done, steps, losses: None
    handed_on: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    read: RunData = field(init=False)
    """The same sets as ``sets``, held in memory where the settings ask for it."""
    shown: tuple[DataSettings, DataSettings] = field(init=False)
    """``data`` and ``target_data`` with the pixel statistics that the stage's network wants."""

    def execute(self) -> Stage | None:
        """Train every stage that is not finished yet -> the last stage that was trained here, if any."""
        self.read = self.sets.cached(self.data, self.target_data)
        model_settings, initial = self.model, self.new_model(self.model)
        previous = copy.deepcopy(initial)
        for name, settings in self.stages.items():
            if settings.model is None:
                self.refuse_unfit_batches(name, settings, initial)
        chain, source_only, stage = self.data_key, True, None
        for name, settings in plan(self.stages).items():
            own_key = self.stage_key(chain, name, settings)
            chain = digest(chain, own_key)
            source_only = source_only and settings.source_only
            if settings.start == "fresh":
                model_settings = settings.model or self.model
                model, initial = self.new_model(model_settings), self.new_model(model_settings)
                self.refuse_unfit_batches(name, settings, model)
            else:
                model = copy.deepcopy(previous)
            self.shown = self.data.read_by(model.normalization), self.target_data.read_by(model.normalization)
            pixels = self.shown[0].normalization
            if pixels != self.data.read_by(previous.normalization).normalization:
                previous = reading(previous, pixels)
            context = StageContext(model, previous, initial, self.sets.space, self.handed_on, pixels)
            torch.manual_seed(seed_of(self.seed, name, "build"))
            stage = settings.build(context)
            if not self.load_finished(name, settings, own_key, stage):
                end = partial(self.end_of, name, settings, model_settings, stage, source_only)
                self.train_stage(name, settings, stage, end)
                self.save_finished(name, own_key, stage)
            self.handed_on |= {part: module.state_dict() for part, module in stage.handed_on().items()}
            if settings.hands_on_model:
                previous = stage.model
                with uncompiled(self.training.compile):
                    self.on_end(self.end_of(name, settings, model_settings, stage, source_only))
        return stage

    def refuse_unfit_batches(self, name: str, settings: StageSettings, network: Segmenter) -> None:
        parts = self.fabric.world_size * self.training.accumulate
        refuse_unfit_batches(name, settings, network, (self.data, self.target_data), parts)

    def end_of(
        self, name: str, settings: StageSettings, model: ModelSettings, stage: Stage, source_only: bool
    ) -> StageEnd:
        acting = (part for part, module in stage.handed_on().items() if acts_at_inference(module))
        return StageEnd(name, settings, model, stage.predictor().eval(), source_only, tuple(acting))

    # -- one stage -----------------------------------------------------------------------------------------------------

    def train_stage(self, name: str, settings: StageSettings, stage: Stage, end: Callable[[], StageEnd]) -> None:
        checkpoints = self.checkpoints(name)
        if self.main and not checkpoints.paths():
            torch.manual_seed(seed_of(self.seed, name, "prepare"))
            stage.to(self.fabric.device).eval()
            with explained_if_out_of_memory(f"stage {name!r}, before its first step", PASSES_NEED_LESS):
                stage.prepare(self.passes(name))
        stage.nothing_to_do = self.fabric.broadcast(stage.nothing_to_do)
        if stage.nothing_to_do:
            self.tracker.write(name, 0, "note", {"text": f"not trained: {stage.nothing_to_do}"})
            return
        self.tracker.rewind(set(self.finished_names()), name, latest_step(checkpoints))
        options = self.training
        loop = LoopSettings(
            settings.steps, self.seed, options.clip_norm, options.accumulate, options.checkpoint_every,
            options.log_every, self.look_every(settings), options.on_collapse,
        )  # fmt: skip
        hooks = Hooks(
            look=partial(self.look, end),
            progress=lambda step, losses: self.on_progress(name, step, settings.steps, losses),
        )
        batches = lambda first: self.batches(name, settings, stage, first)  # noqa: E731
        compile_networks(stage, options.compile)
        train(self.fabric, name, stage, loop, batches, checkpoints, self.tracker, hooks)

    def look(self, end: Callable[[], StageEnd], step: int) -> None:
        with uncompiled(self.training.compile):
            self.on_look(end(), step)

    def look_every(self, settings: StageSettings) -> int:
        """Steps between looks in a stage; training on the source alone is only looked at when it ends."""
        return 0 if settings.source_only else self.training.look_every

    def batches(self, name: str, settings: StageSettings, stage: Stage, first: int) -> Iterator[Pair]:
        """This rank's share of every step's source and target batch, from step ``first`` on."""
        changed = settings.model_dump(include={"batch", "crop"}, exclude_none=True)
        data, target_data = (part.model_copy(update=changed) for part in self.shown)
        position = {
            "first_step": first,
            "steps": settings.steps - first,
            "rank": self.fabric.global_rank,
            "world": self.fabric.world_size,
        }
        raw, source = self.sets.source, self.read.source
        if settings.translated_folder is not None:
            source = WithTranslations(source, self.read.translated[settings.translated_folder])
        if settings.reads_target_labels:
            raw, source = self.sets.oracle, self.read.oracle
            data = target_data.model_copy(update={"photometric": data.photometric, "blur": data.blur})
        sources = training_batches(source, data, self.source_sampler(name, settings, stage, raw), **position)
        if not settings.takes_target:
            return ((batch, None) for batch in sources)
        target = self.read.target
        if (labels := stage.target_labels(self.stage_folder(name))) is not None:
            target = PseudoLabeled(target, labels)
        sampler = UniformSampler(len(target), seed_of(self.seed, name, "target"))
        return zip(sources, training_batches(target, target_data, sampler, **position), strict=False)

    def source_sampler(self, name: str, settings: StageSettings, stage: Stage, source: Any) -> Sampler:
        """How a stage draws images of ``source``, a labelled data set."""
        seed = seed_of(self.seed, name, "source")
        count = partial(class_pixel_counts, source, self.walked(name, "masks counted"))
        probabilities = stage.source_probabilities(count()) if stage.guides_sampling else None
        if probabilities is not None:
            return WeightedSampler(probabilities, seed)
        if settings.sampling == "rare_class":
            return RareClassSampler(count(), seed, min_pixels=self.data.rare_min_pixels)
        return UniformSampler(len(source), seed)

    def passes(self, name: str) -> Passes:
        names = [self.sets.target.name(index) for index in range(len(self.sets.target))]
        data, target_data = self.shown
        source, target = Pass(self.read.source, data), Pass(self.read.target, target_data)
        return Passes(
            OnDevice(source, self.fabric.device, len(self.read.source), self.walked(name, "source images")),
            OnDevice(target, self.fabric.device, len(self.read.target), self.walked(name, "target images")),
            self.stage_folder(name),
            names,
        )

    def walked(self, name: str, what: str) -> Callable[[int, int], None]:
        """Tells of a pass over images as of training, but without losses."""
        return lambda done, total: self.on_progress(f"{name}: {what}", done, total, {})

    # -- what is finished stays finished -------------------------------------------------------------------------------

    def save_finished(self, name: str, key: str, stage: Stage) -> None:
        """Keep the result of a stage, then forget its checkpoints. All ranks go on from rank 0's result."""
        path = self.result_path(name)
        if self.main:
            handed_on = {part: module.state_dict() for part, module in stage.handed_on().items()}
            state = {"format": FORMAT, "key": key, "model": stage.model.state_dict(), "handed_on": handed_on}
            save_state(state, path)
            if self.reuse is not None and not is_run(self.reuse):
                save_state(state, self.reuse / f"{key}.pt")
        self.fabric.barrier()
        if not self.main:
            self.load_result(path, stage)
        self.checkpoints(name).clear()

    def load_finished(self, name: str, settings: StageSettings, key: str, stage: Stage) -> bool:
        """Load a result that is already there, of this run or of another; False if there is none. A stage that is to
        be looked at on its way is never taken from another run, which may not have looked."""
        path = self.result_path(name)
        looked_at = self.look_every(settings) > 0
        if self.main and not path.exists() and not looked_at and (shared := self.shared_result(key)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            shutil.copyfile(shared, part)
            part.replace(path)  # whole or absent, like everything that a resumed run relies on
            self.tracker.write(name, settings.steps, "note", {"text": f"taken from {shared}"})
        if not self.fabric.broadcast(path.exists()):
            return False
        self.load_result(path, stage)
        return True

    def shared_result(self, key: str) -> Path | None:
        """The result of the very same stage in the folder to reuse."""
        if self.reuse is None:
            return None
        if not is_run(self.reuse):
            path = self.reuse / f"{key}.pt"
            return path if path.exists() else None
        results = sorted(self.reuse.glob("stages/*/result.pt"))
        return next((path for path in results if load_safely(path).get("key") == key), None)

    def load_result(self, path: Path, stage: Stage) -> None:
        state = load_safely(path)
        load_state(stage.model, state["model"], path)
        for part, module in stage.handed_on().items():
            load_state(module, state["handed_on"][part], path)
        stage.to(self.fabric.device)

    @property
    def main(self) -> bool:
        """Whether this process writes; in a distributed run one does."""
        return self.fabric.global_rank == 0

    def checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints", name, self.training.keep, self.main)

    def finished_names(self) -> list[str]:
        return [name for name in plan(self.stages) if self.result_path(name).exists()]

    def stage_folder(self, name: str) -> Path:
        return self.folder / "stages" / name

    def result_path(self, name: str) -> Path:
        return self.folder / "stages" / name / "result.pt"

    def new_model(self, settings: ModelSettings) -> Segmenter:
        """A network as its settings describe it: pre-trained weights, and the same random ones for the same seed."""
        torch.manual_seed(seed_of(self.seed, "model"))
        return build_model(settings, self.sets.space.num_classes).to(self.fabric.device)

    def stage_key(self, before: str, name: str, settings: StageSettings) -> str:
        """All that determines a stage's result. Supervised training of a new network depends on no other stage and on
        no target image, so runs share it whatever else they do."""
        described = settings.model_dump(mode="json")
        if settings.translated_folder is not None:
            described["translated"] = fingerprint(self.sets.translated[settings.translated_folder])
        if before == self.data_key:
            described["start"] = "fresh"
        if settings.takes_target or described["start"] != "fresh":
            return digest(before, name, described)
        labels = self.sets.oracle if settings.reads_target_labels else self.sets.source
        inherited = sorted(set(settings.chain) & set(self.handed_on))
        return digest(before if inherited else self.determinants(labels), name, described)

    @cached_property
    def data_key(self) -> str:
        """All that determines a run before its first stage."""
        return self.determinants(self.sets.source, self.sets.target, self.sets.oracle)

    def determinants(self, *sets: Any) -> str:
        """All that determines how a network is trained on these data sets, but for the stage's settings; the code
        among it, so that no stage is taken from a run of another version."""
        options = [part.model_dump(mode="json") for part in (self.model, self.data, self.target_data)]
        options.append(self.training.model_dump(include={"precision", "accumulate", "clip_norm", "compile"}))
        if self.training.on_collapse == "rollback":  # the only action that changes a finished stage
            options.append({"on_collapse": "rollback", "log_every": self.training.log_every})
        data = [fingerprint(part) for part in sets if part is not None]
        return digest(code_digest(), self.seed, data, options, self.sets.space.classes)


class OnDevice:
    """A pass whose batches lie on the device, and which tells how far it is."""

    def __init__(
        self,
        batches: Any,
        device: torch.device,
        images: int = 0,
        walked: Callable[[int, int], None] = lambda done, images: None,
    ) -> None:
        self.batches, self.device, self.images, self.walked = batches, device, images, walked

    def __iter__(self) -> Iterator[Any]:
        done = 0
        for batch in self.batches:
            yield batch.to(self.device)
            done += len(batch)
            self.walked(done, self.images)


def is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").exists()


def acts_at_inference(module: nn.Module) -> bool:
    return isinstance(module, Refiner) and type(module).predictor is not Refiner.predictor


def plan(stages: dict[str, StageSettings]) -> dict[str, StageSettings]:
    """Stages with their generations and rounds written out: ``adapt`` with three becomes ``adapt-1`` to ``adapt-3``."""
    steps: dict[str, StageSettings] = {}
    for name, settings in stages.items():
        times = settings.repeats
        for number in range(1, times + 1):
            steps[name if times == 1 else f"{name}-{number}"] = settings
    return steps


def digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def latest_step(checkpoints: Checkpoints) -> int:
    paths = checkpoints.paths()
    return step_of(paths[-1]) if paths else 0
