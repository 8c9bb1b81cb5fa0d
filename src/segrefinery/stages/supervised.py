"""Supervised training: source-only, and the oracle that is allowed target labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from segrefinery.refine import RefinerChain, SourceStep, Step
from segrefinery.stages.base import LabelledSettings, StageContext, StageSettings, StepBatch
from segrefinery.stages.common import LossWeights, RefinedStage, head_losses, labels_losses


class SupervisedSettings(StageSettings):
    """Train on labelled images."""

    kind: Literal["supervised"] = "supervised"
    """Names the kind of the stage."""
    learn_from: Literal["source", "target_labels"] = "source"
    """Learns from the source, or from ``target_labels``, which makes the run an oracle: an upper bound, never an
    adaptation result."""
    hands_on: Literal["model", "refiners"] = "model"
    """Hands on the network, or only what its refiners learned (``refiners``, SAM's attention); the network is then
    thrown away."""
    weights: LossWeights = LossWeights()
    """Weighs the network's classifiers in the cross-entropy."""
    refine: RefinerChain = Field(default_factory=dict)
    """Trains also these refiners' own losses on the source (SAM's attention, IR2F's function)."""

    labelled: LabelledSettings = LabelledSettings(weight=0.0)
    """Says how the stage learns from the labelled target images of ``--labels``: by default not at all, so that there
    is a source-only model to compare with. ``weight: 1`` trains on the source and on them."""

    @property
    def takes_target(self) -> bool:
        return False

    @property
    def reads_target_labels(self) -> bool:
        return self.learn_from == "target_labels"

    @property
    def needs_source(self) -> str | None:
        return None if self.reads_target_labels else "it trains on labelled source images"

    def beside_a_model(self) -> StageSettings | None:
        if self.reads_target_labels or not self.hands_on_model:
            return self
        return self.model_copy(update={"hands_on": "refiners"}) if self.refine else None

    @property
    def hands_on_model(self) -> bool:
        return self.hands_on == "model"

    @property
    def chain(self) -> RefinerChain:
        return self.refine

    @property
    def passes(self) -> float:
        return 1.0

    def build(self, context: StageContext) -> Supervised:
        return Supervised(self, context)


class Supervised(RefinedStage):
    """Cross-entropy on labelled images, plus the losses of refiners that learn from the source."""

    def __init__(self, settings: SupervisedSettings, context: StageContext) -> None:
        super().__init__(settings, settings.refine, context)
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
