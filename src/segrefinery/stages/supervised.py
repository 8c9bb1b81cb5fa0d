"""Supervised training: source-only, and the oracle that is allowed target labels."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from segrefinery.refine import SourceStep, Step
from segrefinery.stages.base import StageContext, StepBatch
from segrefinery.stages.common import RefinedStage, head_losses, labels_losses
from segrefinery.stages.kinds import SupervisedSettings


class Supervised(RefinedStage):
    """Cross-entropy on labelled images, plus the losses of refiners that learn from the source."""

    def __init__(self, settings: SupervisedSettings, context: StageContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        source = batch.source
        assert source is not None, "supervised training needs a source batch"
        if on_labels := labels_losses(self.model, batch, self.settings, self.settings.weights):
            yield on_labels
        prediction = self.model(source.image)
        losses = head_losses("source", prediction, source.label, None, self.settings.weights)
        step = Step(batch.number, self.model, SourceStep(source, prediction), generators=batch.generators)
        for refiner in self.chain_with_losses:
            losses |= refiner.losses(step)
        self.micro_steps.append(step)
        yield losses
