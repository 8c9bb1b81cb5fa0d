"""What the stages share: how a prediction is supervised, and what a student with refiners is around its step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from segrefinery.data.batch import LabeledBatch
from segrefinery.labels import IGNORE
from segrefinery.losses import learner_cross_entropy, weighted_cross_entropy
from segrefinery.models.segmenter import Prediction
from segrefinery.refine import NoSource, PseudoLabels, Refiner, RefinerSettings, SourceStep, Step
from segrefinery.stages.base import Stage, StageContext, StepBatch
from segrefinery.stages.optimizers import ScheduledOptimizer, refined_optimizers
from segrefinery.stages.settings import LossWeights, StageSettings


def head_losses(
    name: str, prediction: Prediction, label: Tensor, weight: Tensor | None, weights: LossWeights
) -> dict[str, Tensor]:
    """Cross-entropy of the main learner and of the second one, each inside the part of the image it sees.

    Args:
        name: prefix of the losses' names.
        prediction: of B images.
        label: B x H x W int64, 255 ignored.
        weight: B x H x W in [0, 1], or None.
    """
    losses, over = {}, weights.mean_over
    if weights.main:
        losses[name] = weights.main * weighted_cross_entropy(
            prediction.logits, label, weight, aligned=prediction.aligned, mean_over=over
        )
    if weights.aux and prediction.aux_logits is not None:
        second = learner_cross_entropy(prediction.learners[1], label, weight, mean_over=over)
        losses[f"{name}_aux"] = weights.aux * second
    return losses


def labels_losses(
    model: nn.Module, batch: StepBatch, settings: StageSettings, weights: LossWeights
) -> dict[str, Tensor]:
    """``labels`` and ``labels_aux``: cross-entropy on the step's labelled target images; nothing without them. They are
    seen as other target images are, so batch norm counts them among those."""
    taught = batch.labeled_target
    if taught is None:
        return {}
    return weighted(settings.labelled.weight, head_losses("labels", model(taught.image), taught.label, None, weights))


def weighted(factor: float, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses, each multiplied by ``factor``; none with 0."""
    return {name: factor * loss for name, loss in losses.items()} if factor else {}


def build_refiners(chain: Mapping[str, RefinerSettings], context: StageContext) -> nn.ModuleDict:
    """The chain's refiners by name, in order; what an earlier stage handed on under the same name is loaded, unless it
    was learned of another network's features than the stage's."""
    refiners = nn.ModuleDict()
    for name, settings in chain.items():
        refiner = settings.build(context.initial, context.space)
        if name in context.handed_on and not (context.new_network and refiner.reads_features):
            state, given = refiner.state_dict(), context.handed_on[name]
            refiner.load_state_dict({key: given.get(key, value) for key, value in state.items()})
        refiners[name] = refiner
    return refiners


class UnseenSource(SourceStep):
    """The source's half of a step that learns nothing from it: the student looks only if a refiner asks what it says,
    so that its pass costs nothing and moves no statistics."""

    def __init__(self, batch: LabeledBatch, student: nn.Module) -> None:
        self.batch, self.student = batch, student

    @cached_property
    def prediction(self) -> Prediction:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.student(self.batch.image)


class RefinedStage(Stage):
    """A student and a chain of refiners, and what trains them; a stage adds its ``step``.

    Attributes:
        refiners: by name, in order.
        micro_steps: the steps since the optimizer last moved (several with accumulation), for the refiners' updates.
    """

    def __init__(self, settings: StageSettings, context: StageContext) -> None:
        super().__init__()
        self.optimizer_settings, self.steps = settings.optimizer, settings.steps
        self.space = context.space
        self.model = context.model
        self.refiners = build_refiners(settings.chain, context)
        self.micro_steps: list[Step] = []

    @property
    def chain(self) -> list[Refiner]:
        """The refiners, in order."""
        return list(self.refiners.values())  # pyright: ignore[reportReturnType]

    @property
    def chain_with_losses(self) -> list[Refiner]:
        """Those that add a loss."""
        return [refiner for refiner in self.chain if type(refiner).losses is not Refiner.losses]

    def learn_source(
        self, source: LabeledBatch | None, factor: float, weights: LossWeights
    ) -> tuple[SourceStep, dict[str, Tensor]]:
        """The source's half of a step and its losses, ``factor`` times. With 0 the student does not look at it."""
        if source is None:
            return NoSource(), {}
        if not factor:
            return UnseenSource(source, self.model), {}
        prediction = self.model(source.image)
        losses = head_losses("source", prediction, source.label, None, weights)
        return SourceStep(source, prediction), weighted(factor, losses)

    def optimizers(self) -> dict[str, ScheduledOptimizer]:
        refiners = dict(zip(self.refiners, self.chain, strict=True))
        return refined_optimizers(self.model, refiners, self.optimizer_settings, self.steps)

    def after_step(self, batch: StepBatch) -> None:
        for refiner in self.chain if self.micro_steps else ():
            for step in self.micro_steps:
                refiner.remember(step)
            refiner.after_step(self.micro_steps[-1])
        self.micro_steps.clear()

    def predictor(self) -> nn.Module:
        predictor: nn.Module = self.model
        for refiner in self.chain:
            predictor = refiner.predictor(predictor)
        return predictor

    def handed_on(self) -> dict[str, nn.Module]:
        return dict(self.refiners.items())


def from_hard_labels(label: Tensor, weight: Tensor, num_classes: int) -> PseudoLabels:
    """Labels read back from files, as one-hot probabilities; ignored pixels are uniform and weigh 0."""
    ignored = label == IGNORE
    one_hot = nn.functional.one_hot(label.masked_fill(ignored, 0), num_classes).movedim(-1, 1).float()
    probs = torch.where(ignored[:, None], 1.0 / num_classes, one_hot)
    return PseudoLabels(probs, weight.masked_fill(ignored, 0.0))
