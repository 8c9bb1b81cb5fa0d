"""What feeds a stage: its batches step by step, and passes over whole images before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segrefinery.core.pixels import Normalization
from segrefinery.core.randomness import seed_of
from segrefinery.data.cached import with_cache
from segrefinery.data.datasets import parts_of
from segrefinery.data.label_files import PseudoLabeled
from segrefinery.data.loader import WholeImages, WithTranslations, training_batches
from segrefinery.data.sampling import RareClassSampler, Sampler, UniformSampler, WeightedSampler, sampler_of
from segrefinery.data.scan import class_pixel_counts
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.events import RunEvents
from segrefinery.engine.loop import Streams
from segrefinery.evaluation.trust import look
from segrefinery.labels import LabelSpace
from segrefinery.stages.base import Passes, Stage
from segrefinery.stages.settings import StageSettings


@dataclass
class RunData:
    """The data sets of a run, already in the run's label space.

    Attributes:
        source: labelled, or None. target: without labels. oracle: the target's labels, for a stage that is named so, or
            None.
        evaluation: labelled images of the target domain that no training sees, or None. unscored: classes that no label
            of theirs can be.
        translated: the source's images in the target's style, by the folder that a stage's translation names.
        labels: target images that teach with the labels which the user named for that (``--labels``), or None.
        held_out: those of them that teach nothing and score the models instead (``training.holdout``), or None.
        untold: classes that no label of these can be.
    """

    source: Any | None
    target: Any
    space: LabelSpace
    evaluation: Any | None = None
    unscored: tuple[str, ...] = ()
    oracle: Any | None = None
    translated: dict[str, Any] = field(default_factory=dict)
    labels: Any | None = None
    held_out: Any | None = None
    untold: tuple[str, ...] = ()

    def labels_for(self, settings: StageSettings) -> Any | None:
        """The labelled target images that a stage learns from, or None."""
        return self.labels if settings.labelled.weight else None

    def cached(self, data: DataSettings, target_data: DataSettings) -> RunData:
        """The same sets, what is trained on held in memory if the settings ask for it."""
        source = None if self.source is None else with_cache(self.source, data)
        oracle, labels = (part and with_cache(part, target_data) for part in (self.oracle, self.labels))
        translated = {folder: with_cache(images, data) for folder, images in self.translated.items()}
        target = with_cache(self.target, target_data)
        return replace(self, source=source, target=target, oracle=oracle, translated=translated, labels=labels)


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
    ) -> Iterator[Streams]:  # fmt: skip
        """This process's share of each step's batches of source (None where there is none), target and labelled target,
        from step ``first`` on."""
        changed = settings.model_dump(include={"batch", "crop"}, exclude_none=True)
        data, target_data = (part.model_copy(update=changed) for part in (self.data, self.target_data))
        steps = settings.steps - first
        position = {"first_step": first, "steps": steps, "rank": self.rank, "world": self.world}
        # Labelled images are jittered and blurred in training; of target images the strong view does that.
        labeled_data = target_data.model_copy(update={"photometric": data.photometric, "blur": data.blur})
        raw, source = self.sets.source, self.read.source
        if settings.translated_folder is not None:
            source = WithTranslations(source, self.read.translated[settings.translated_folder])
        if settings.reads_target_labels:
            raw, source, data = self.sets.oracle, self.read.oracle, labeled_data
        sources, targets, labels = repeat(None), repeat(None), repeat(None)
        if raw is not None:
            sources = training_batches(source, data, self.source_sampler(name, settings, stage, raw), **position)
        if settings.takes_target:
            target = self.read.target
            if (written := stage.target_labels(folder)) is not None:
                target = PseudoLabeled(target, written)
            sampler = self.sampler(name, "target", "uniform", self.sets.target)
            targets = training_batches(target, target_data, sampler, **position)
        if (labelled := self.sets.labels_for(settings)) is not None:
            label_data = labeled_data.model_copy(
                update=settings.labelled.model_dump(include={"batch"}, exclude_none=True)
            )
            sampler = self.sampler(name, "labels", settings.labelled.sampling, labelled)
            labels = training_batches(self.read.labels, label_data, sampler, **position)
        return zip(sources, targets, labels, strict=False)

    def source_sampler(self, name: str, settings: StageSettings, stage: Stage, source: Any) -> Sampler:
        """How a stage draws images of ``source``, a labelled data set."""
        weighted = None
        if stage.guides_sampling:
            weighted = stage.source_probabilities(class_pixel_counts(source, self.walked(name, "masks counted")))
        return self.sampler(name, "source", settings.sampling, source, weighted)

    def sampler(
        self, name: str, role: str, sampling: str, dataset: Any, probabilities: Tensor | None = None
    ) -> Sampler:  # fmt: skip
        """How images of a data set are drawn: by N probabilities, for rare classes or evenly, and of the parts it was
        joined of in their stated proportions."""
        rare = sampling == "rare_class" and probabilities is None
        counts = class_pixel_counts(dataset, self.walked(name, "masks counted")) if rare else None

        def build(places: slice, seed: int) -> Sampler:
            if probabilities is not None:
                return WeightedSampler(probabilities[places], seed)
            if counts is not None:
                return RareClassSampler(counts[places], seed, min_pixels=self.data.rare_min_pixels)
            return UniformSampler(places.stop - places.start, seed)

        parts = [(part.images, part.share) for part in parts_of(dataset)]
        return sampler_of(len(dataset), parts, seed_of(self.seed, name, role), build)

    def passes(self, name: str, folder: Path) -> Passes:
        """What a stage may walk through before its first step; ``folder`` is its own."""
        source, target = self.read.source, WholeImages(self.read.target, self.target_data)
        told = self.walked(name, "source images")
        return Passes(
            [] if source is None else OnDevice(WholeImages(source, self.data), self.device, len(source), told),
            OnDevice(target, self.device, len(self.read.target), self.walked(name, "target images")),
            folder,
            [self.sets.target.name(index) for index in range(len(self.sets.target))],
            partial(look, dataset=self.read.target, data=self.target_data, num_classes=self.sets.space.num_classes),
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
