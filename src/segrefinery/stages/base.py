"""What a stage is: a module that holds everything that trains, and yields the losses of one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from segrefinery.data.batch import LabeledBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.data.photometric import IMAGENET_MEAN, IMAGENET_STD, PerBand
from segrefinery.evaluation.trust.collect import Observation
from segrefinery.labels import LabelSpace
from segrefinery.models.segmenter import Segmenter
from segrefinery.stages.optimizers import ScheduledOptimizer
from segrefinery.stages.watch import LabelWatch


@dataclass
class StageContext:
    """What a stage is built from.

    Attributes:
        model: the network to train, with the weights the settings' ``start`` asks for.
        previous: the network as the last stage left it (the teacher of an offline generation or a distillation).
        initial: the network before any training here: newly built, or as it was brought (frozen references).
        space: the classes.
        handed_on: states of modules that earlier stages handed on, by name.
        normalization: mean and standard deviation of the pixels, for colour changes on normalised images.
        new_network: whether ``model`` is newly built, so that what was learned of another network's features says
            nothing of its own.
    """

    model: Segmenter
    previous: Segmenter
    initial: Segmenter
    space: LabelSpace
    handed_on: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    normalization: tuple[PerBand, PerBand] = (IMAGENET_MEAN, IMAGENET_STD)
    new_network: bool = False


@dataclass
class Passes:
    """What a stage may walk through before its first step: whole, un-augmented images in order, as often as it likes.

    Attributes:
        source, target: re-iterable; the target has no labels. Without a source it is empty.
        folder: where the stage keeps what it found (rounds, labels, statistics).
        target_names: the target images' names, by index.
        look: looks at a network on a sample of the target's images, for the label-free scores.
    """

    source: Iterable[LabeledBatch]
    target: Iterable[UnlabeledBatch]
    folder: Path
    target_names: Sequence[str] = ()
    look: Callable[[nn.Module], Observation] | None = None


@dataclass
class StepBatch:
    """What one step trains on.

    Attributes:
        number: optimizer step, counted from 0 within the stage.
        source: labelled images, or None where there are none.
        target: unlabelled images, or images with our own teacher's labels in an offline generation, or None.
        generators: one random generator a sample, a function of (seed, stage, step, place in the global batch).
        labeled_target: target images whose labels the user named for training (``--labels``), of a size of their own;
            None where there are none, or the stage does not learn from them.
    """

    number: int
    source: LabeledBatch | None
    target: UnlabeledBatch | PseudoLabeledBatch | None
    generators: list[torch.Generator] = field(default_factory=list)
    labeled_target: LabeledBatch | None = None


class Stage(nn.Module, ABC):
    """One stage of a recipe. Its ``state_dict`` is the whole truth: student, teacher, discriminators, refiners.

    Attributes:
        model: the network that is handed on to the next stage.
    """

    model: Segmenter
    nothing_to_do: str | None = None
    """Why the stage need not train, if ``prepare`` found that out."""
    prepares_model: bool = False
    """Whether ``prepare`` changes the model, so that it may be better before its first step than after its last."""
    guides_sampling: bool = False
    """Whether ``source_probabilities`` says how source images are drawn; the class counts it needs take a pass."""

    def prepare(self, passes: Passes) -> None:
        """Look at the data before the first step; skipped when a run resumes inside the stage, so whatever it finds
        must be state (parameters, buffers) or files in ``passes.folder``."""

    def source_probabilities(self, pixel_counts: Tensor) -> Tensor | None:
        """N sampling probabilities of the source images from their N x C pixel counts, asked for after ``prepare``;
        None leaves it to the settings."""
        return None

    def target_labels(self, folder: Path) -> Path | None:
        """The folder of pseudo-labels to train on, in an offline generation; None where labels are made as it goes."""
        return None

    @abstractmethod
    def optimizers(self) -> dict[str, ScheduledOptimizer]:
        """The optimizers by name, built anew at every call."""

    @abstractmethod
    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        """Yield dictionaries of weighted scalar losses, empty where there is nothing to learn. The loop sums and
        back-propagates each one before it asks for the next, so that a graph that is no longer needed is freed early.
        """

    def after_step(self, batch: StepBatch) -> None:
        """After the optimizers moved: teacher, memories."""

    def predictor(self) -> nn.Module:
        """The network to evaluate and to ship."""
        return self.model

    def handed_on(self) -> dict[str, nn.Module]:
        """Modules by name, besides the model, that later stages may start from (SAM's attention, IR2F's function)."""
        return {}

    @property
    def label_watch(self) -> LabelWatch | None:
        """What the stage remembers of its labels; None for a stage that makes none."""
        return None

    def numbers(self) -> dict[str, float]:
        """What to track beside the losses since the last call (kept share, confidence, ...)."""
        return {}
