"""What feeds a stage: its batches step by step, and passes over whole images before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segrefinery.core.pixels import Normalization
from segrefinery.core.randomness import seed_of
from segrefinery.data.label_files import PseudoLabeled
from segrefinery.data.loader import Pass, WithTranslations, training_batches, with_cache
from segrefinery.data.sampling import RareClassSampler, Sampler, UniformSampler, WeightedSampler
from segrefinery.data.scan import class_pixel_counts
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.events import RunEvents
from segrefinery.engine.loop import Pair
from segrefinery.labels import LabelSpace
from segrefinery.stages.base import Passes, Stage, StageSettings


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
class Feed:
    """Batches and passes of one process.

    Attributes:
        sets: the data sets. read: the same, held in memory where the settings ask for it.
        data, target_data: how the images of both domains are read.
        seed: of everything random. rank, world: which share of every batch this process takes, of how many.
        device: where passes put their images. events: told how far a pass is.
    """

    sets: RunData
    read: RunData
    data: DataSettings
    target_data: DataSettings
    seed: int
    rank: int
    world: int
    device: torch.device
    events: RunEvents

    def read_by(self, normalization: Normalization) -> Feed:
        """The same with the pixel statistics that a network wants, where the settings name none."""
        data, target_data = (part.read_by(normalization) for part in (self.data, self.target_data))
        return replace(self, data=data, target_data=target_data)

    def batches(
        self, name: str, settings: StageSettings, stage: Stage, folder: Path, first: int
    ) -> Iterator[Pair]:  # fmt: skip
        """This process's share of every step's source and target batch, from step ``first`` on."""
        changed = settings.model_dump(include={"batch", "crop"}, exclude_none=True)
        data, target_data = (part.model_copy(update=changed) for part in (self.data, self.target_data))
        steps = settings.steps - first
        position = {"first_step": first, "steps": steps, "rank": self.rank, "world": self.world}
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
        if (labels := stage.target_labels(folder)) is not None:
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

    def passes(self, name: str, folder: Path) -> Passes:
        """What a stage may walk through before its first step; ``folder`` is its own."""
        source, target = Pass(self.read.source, self.data), Pass(self.read.target, self.target_data)
        return Passes(
            OnDevice(source, self.device, len(self.read.source), self.walked(name, "source images")),
            OnDevice(target, self.device, len(self.read.target), self.walked(name, "target images")),
            folder,
            [self.sets.target.name(index) for index in range(len(self.sets.target))],
        )

    def walked(self, name: str, what: str) -> Callable[[int, int], None]:
        """Tells of a pass over images as of training, but without losses."""
        return lambda done, total: self.events.progressed(f"{name}: {what}", done, total, {})


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
