"""Supervised training: source-only, and the oracle that is allowed target labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from segrefinery.refine import Refiner, RefinerChain, Step
from segrefinery.stages.base import Stage, StageContext, StageSettings, StepBatch
from segrefinery.stages.common import LossWeights, build_refiners, head_losses
from segrefinery.stages.optimizers import Trained, build_optimizer, parameter_groups


class SupervisedSettings(StageSettings):
    """Train on labelled images."""

    kind: Literal["supervised"] = "supervised"
    learn_from: Literal["source", "target_labels"] = "source"
    """``target_labels`` makes the run an oracle: an upper bound, never an adaptation result."""
    hands_on: Literal["model", "refiners"] = "model"
    """``refiners``: the network is thrown away and only what its refiners learned goes on (SAM's attention)."""
    weights: LossWeights = LossWeights()
    refine: RefinerChain = Field(default_factory=dict)
    """Refiners whose own losses also train on the source (SAM's attention, IR2F's function)."""

    def build(self, context: StageContext) -> Supervised:
        return Supervised(self, context)


class Supervised(Stage):
    """Cross-entropy on labelled images, plus the losses of refiners that learn from the source."""

    def __init__(self, settings: SupervisedSettings, context: StageContext) -> None:
        super().__init__()
        self.settings = settings
        self.model = context.model
        self.refiners = build_refiners(settings.refine, context)
        self._steps: list[Step] = []

    def optimizers(self) -> dict[str, Trained]:
        refiners = [(refiner, refiner.learning_rate_factor) for refiner in self._refiners()]
        groups = parameter_groups(self.model, self.settings.optimizer, refiners)
        return {"model": build_optimizer(groups, self.settings.optimizer, self.settings.steps)}

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        assert batch.source is not None
        prediction = self.model(batch.source.image)
        losses = head_losses("source", prediction, batch.source.label, None, self.settings.weights)
        step = Step(batch.number, self.model, batch.source, prediction, generators=batch.generators)
        for refiner in self._refiners():
            losses |= refiner.losses(step)
        self._steps.append(step)
        yield losses

    def after_step(self, batch: StepBatch) -> None:
        for step in self._steps:
            for refiner in self._refiners():
                refiner.after_step(step)
        self._steps.clear()

    def predictor(self) -> nn.Module:
        predictor: nn.Module = self.model
        for refiner in self._refiners():
            predictor = refiner.predictor(predictor)
        return predictor

    def handed_on(self) -> dict[str, nn.Module]:
        return dict(self.refiners.items())

    def _refiners(self) -> list[Refiner]:
        return list(self.refiners.values())  # pyright: ignore[reportReturnType]
