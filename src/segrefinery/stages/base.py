"""What a stage is: a module that holds everything that trains, and yields the losses of one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from segrefinery.data.batch import LabeledBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.models.segmenter import Segmenter
from segrefinery.stages.optimizers import Trained


@dataclass
class Passes:
    """What a stage may walk through before its first step: whole, un-augmented images in order, as often as it likes.

    Attributes:
        source, target: re-iterable; the target has no labels.
        folder: where the stage keeps what it found (rounds, labels, statistics).
    """

    source: Iterable[LabeledBatch]
    target: Iterable[UnlabeledBatch]
    folder: Path


@dataclass
class StepBatch:
    """What one step trains on.

    Attributes:
        number: optimizer step, counted from 0 within the stage.
        source: labelled images, or None if the stage asked for none.
        target: unlabelled images, or images with our own teacher's labels in an offline generation, or None.
        generators: one random generator a sample, a function of (seed, stage, step, place in the global batch).
    """

    number: int
    source: LabeledBatch | None
    target: UnlabeledBatch | PseudoLabeledBatch | None
    generators: list[torch.Generator] = field(default_factory=list)


class Stage(nn.Module, ABC):
    """One stage of a recipe. Its ``state_dict`` is the whole truth: student, teacher, discriminators, refiners.

    Attributes:
        model: the network that is handed on to the next stage.
    """

    model: Segmenter

    def prepare(self, passes: Passes) -> None:
        """Look at the data before the first step; skipped when a run resumes inside the stage, so whatever it finds
        must be state (parameters, buffers) or files in ``passes.folder``."""

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
        """What the stage would like to see tracked beside its losses since the last call (kept share, confidence, ...)."""
        return {}
