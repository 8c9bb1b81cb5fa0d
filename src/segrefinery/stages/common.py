"""What the stages share: how a prediction is supervised, and what a student with refiners is around its step."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from segrefinery.core.settings import Settings
from segrefinery.losses import learner_cross_entropy, weighted_cross_entropy
from segrefinery.models.segmenter import Prediction
from segrefinery.refine import Refiner, RefinerSettings, Step
from segrefinery.stages.base import Stage, StageContext, StageSettings, StepBatch
from segrefinery.stages.optimizers import Trained, build_optimizer, parameter_groups


class LossWeights(Settings):
    """Weights of a network's classifiers in a supervised loss."""

    main: float = Field(default=1.0, ge=0)
    aux: float = Field(default=0.1, ge=0)
    """Of the second learner, where the network has one (AdaptSegNet: 0.1; MRNet: 0.5; HRDA's detail crop: 0.1)."""


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
    losses = {}
    if weights.main:
        losses[name] = weights.main * weighted_cross_entropy(prediction.logits, label, weight)
    if weights.aux and prediction.aux_logits is not None:
        losses[f"{name}_aux"] = weights.aux * learner_cross_entropy(prediction.learners[1], label, weight)
    return losses


def build_refiners(chain: Mapping[str, RefinerSettings], context: StageContext) -> nn.ModuleDict:
    """The chain's refiners by name, in order; what an earlier stage handed on under the same name is loaded."""
    refiners = nn.ModuleDict()
    for name, settings in chain.items():
        refiner = settings.build(context.initial, context.space)
        if name in context.handed_on:
            own, given = refiner.state_dict(), context.handed_on[name]
            refiner.load_state_dict({key: given.get(key, value) for key, value in own.items()})
        refiners[name] = refiner
    return refiners


class RefinedStage(Stage):
    """A student and a chain of refiners, trained by one optimizer; a stage adds its ``step``.

    Attributes:
        refiners: by name, in order.
        micro_steps: the steps since the optimizer last moved (several with accumulation), for the refiners' updates.
    """

    def __init__(self, settings: StageSettings, chain: Mapping[str, RefinerSettings], context: StageContext) -> None:
        super().__init__()
        self.optimizer_settings, self.steps = settings.optimizer, settings.steps
        self.space = context.space
        self.model = context.model
        self.refiners = build_refiners(chain, context)
        self.micro_steps: list[Step] = []

    @property
    def chain(self) -> list[Refiner]:
        """The refiners, in order."""
        return list(self.refiners.values())  # pyright: ignore[reportReturnType]

    @property
    def chain_with_losses(self) -> list[Refiner]:
        """Those that add a loss."""
        return [refiner for refiner in self.chain if type(refiner).losses is not Refiner.losses]

    def optimizers(self) -> dict[str, Trained]:
        refiners = [(refiner, refiner.learning_rate_factor) for refiner in self.chain]
        groups = parameter_groups(self.model, self.optimizer_settings, refiners)
        return {"model": build_optimizer(groups, self.optimizer_settings, self.steps)}

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
