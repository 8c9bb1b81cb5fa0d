"""What happens in a run, told to whoever wants to know. Nothing of it changes the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segrefinery.models import ModelSettings
from segrefinery.stages.settings import StageSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass
class StageEnd:
    """What a stage leaves, or has at a look on its way, to whoever looks at it.

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


def prepared_name(stage: str) -> str:
    """Under which name the model that a stage has prepared, and not trained yet, is looked at and kept."""
    return f"{stage}-prepared"


class RunEvents:
    """Told of a run as it goes; a listener answers what concerns it and leaves the rest. Of the processes of a
    distributed run one tells."""

    def said(self, line: str) -> None:
        """Something worth a sentence: a note, a warning, a score, the verdict."""

    def progressed(self, what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """A stage's name, the steps done, the steps in all and the losses; or what a pass over images is for (``adapt:
        target images``), the images done, the images in all and no losses."""

    def looked(self, end: StageEnd, step: int) -> None:
        """A model in training is to be looked at, after ``step`` steps."""

    def ended(self, end: StageEnd) -> None:
        """A stage has ended, now or before the run was resumed; or, under ``prepared_name``, is ready to begin."""

    def concluded(self) -> None:
        """All stages have ended."""


class Listeners(RunEvents):
    """Tells several, one after the other."""

    def __init__(self, *listeners: RunEvents) -> None:
        self.listeners = listeners

    def said(self, line: str) -> None:
        for each in self.listeners:
            each.said(line)

    def progressed(self, what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        for each in self.listeners:
            each.progressed(what, done, total, losses)

    def looked(self, end: StageEnd, step: int) -> None:
        for each in self.listeners:
            each.looked(end, step)

    def ended(self, end: StageEnd) -> None:
        for each in self.listeners:
            each.ended(end)

    def concluded(self) -> None:
        for each in self.listeners:
            each.concluded()
