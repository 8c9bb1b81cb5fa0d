"""What a stage is: a module that holds everything that trains, and yields the losses of one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from segrefinery.core.settings import BUDGET, Settings
from segrefinery.data.batch import LabeledBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.data.photometric import IMAGENET_MEAN, IMAGENET_STD, PerBand
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings
from segrefinery.models.segmenter import Segmenter
from segrefinery.refine.base import RefinerSettings
from segrefinery.stages.optimizers import OptimizerSettings, Trained


class LabelledSettings(Settings):
    """How a stage learns from labelled target images, where a run is given any (``--labels``)."""

    weight: float = Field(default=1.0, ge=0)
    """Weighs their loss, in batches of their own; 0 = the stage does not learn from them."""
    batch: Annotated[int | None, BUDGET] = Field(default=None, gt=0, le=65_536)
    """Shows so many a step, repeated evenly where they are few; by default as many as other target images."""
    sampling: Literal["uniform", "rare_class"] = "uniform"
    """Draws them evenly, or by DAFormer's rare class sampling."""


class StageSettings(Settings):
    """What every stage lets a recipe choose."""

    steps: Annotated[int, BUDGET] = Field(gt=0, le=1_000_000_000)
    """Takes so many optimizer steps."""
    optimizer: Annotated[OptimizerSettings, BUDGET] = OptimizerSettings()
    """Chooses the optimizer and its rates."""
    before: str | None = None
    """Puts the stage in front of another one, for a recipe that extends one or for ``--set``; by default a new stage is
    the last."""
    start: Literal["previous", "fresh"] = "previous"
    """Trains on from the weights the last stage left, or from a newly built network."""
    model: Annotated[ModelSettings | None, BUDGET] = None
    """Names the network of a fresh start; by default the recipe's (a distilled student may be another)."""
    batch: Annotated[int | None, BUDGET] = Field(default=None, gt=0, le=65_536)
    """Takes so many images of each domain a step; by default the recipe's ``data.batch``."""
    crop: Annotated[tuple[int, int] | None, BUDGET] = None
    """Sets height and width of the training crop; by default the recipe's ``data.crop``."""
    sampling: Literal["uniform", "rare_class"] = "uniform"
    """Draws source images evenly, or by DAFormer's rare class sampling."""
    labelled: LabelledSettings = LabelledSettings()
    """Says how the stage learns from the labelled target images of ``--labels``; without any, this is nothing."""

    @property
    def takes_target(self) -> bool:
        """Whether a step takes a batch of the target beside that of the source."""
        return True

    @property
    def reads_target_labels(self) -> bool:
        """Whether the labelled batches are of the target (an oracle), instead of the source."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether source and target images are pasted into each other, and so must have one size."""
        return False

    @property
    def hands_on_model(self) -> bool:
        """Whether the next stage goes on from this one's network; if not, only what its refiners learned goes on."""
        return True

    @property
    def chain(self) -> Mapping[str, RefinerSettings]:
        """Its refiners, in order."""
        return {}

    @property
    def passes(self) -> float:
        """What a step costs, in forward and backward passes of one batch; one without gradients is a third."""
        return 2.0

    @property
    def source_only(self) -> bool:
        """Whether it trains on nothing but the source."""
        return not self.takes_target and not self.reads_target_labels

    @property
    def needs_source(self) -> str | None:
        """Why the stage cannot do without source images, in words; None if it can."""
        return next((f"{name} learns from the source" for name, own in self.chain.items() if own.needs_source), None)

    def beside_a_model(self) -> StageSettings | None:
        """What is left of the stage in a run that starts from a trained model: all of it, or less, or None."""
        return self

    @property
    def repeats(self) -> int:
        """How often the stage runs in a row (generations, rounds), each time from what the time before left."""
        return 1

    @property
    def translated_folder(self) -> str | None:
        """The folder of translated source images that the stage's source batches show beside the source's, or None."""
        return None

    @model_validator(mode="after")
    def _another_network_starts_fresh(self) -> Self:
        if self.model is not None and self.start != "fresh":
            raise ValueError("a stage with a model of its own needs start: fresh")
        return self

    def build(self, context: StageContext) -> Stage:
        """The stage, ready to train."""
        raise TypeError(f"{type(self).__name__} builds no stage")


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
    """

    model: Segmenter
    previous: Segmenter
    initial: Segmenter
    space: LabelSpace
    handed_on: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    normalization: tuple[PerBand, PerBand] = (IMAGENET_MEAN, IMAGENET_STD)


@dataclass
class Passes:
    """What a stage may walk through before its first step: whole, un-augmented images in order, as often as it likes.

    Attributes:
        source, target: re-iterable; the target has no labels. Without a source it is empty.
        folder: where the stage keeps what it found (rounds, labels, statistics).
        target_names: the target images' names, by index.
    """

    source: Iterable[LabeledBatch]
    target: Iterable[UnlabeledBatch]
    folder: Path
    target_names: Sequence[str] = ()


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
    def optimizers(self) -> dict[str, Trained]:
        """The optimizers by name, built anew at every call."""

    @abstractmethod
    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        """Yield dictionaries of weighted scalar losses. The loop sums and back-propagates each one before it asks for
        the next, so that a graph that is no longer needed is freed early."""

    def after_step(self, batch: StepBatch) -> None:
        """After the optimizers moved: teacher, memories."""

    def predictor(self) -> nn.Module:
        """The network to evaluate and to ship."""
        return self.model

    def handed_on(self) -> dict[str, nn.Module]:
        """Modules by name, besides the model, that later stages may start from (SAM's attention, IR2F's function)."""
        return {}

    def numbers(self) -> dict[str, float]:
        """What to track beside the losses since the last call (kept share, confidence, ...)."""
        return {}
