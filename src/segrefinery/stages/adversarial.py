"""Adversarial alignment: predictions on the target are made to look like predictions on the source.

AdaptSegNet (Tsai et al., CVPR 2018): multi-level alignment of softmax outputs. ADVENT (Vu et al., CVPR 2019): alignment
of entropy maps, and entropy minimisation. What UncerDA adds is in ``target_guided.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.losses import domain_loss, entropy_loss, self_information
from segrefinery.models.discriminator import STRIDE, Discriminator
from segrefinery.models.segmenter import Prediction
from segrefinery.stages.base import Passes, Stage, StageContext, StepBatch
from segrefinery.stages.common import head_losses, labels_losses
from segrefinery.stages.kinds import AdversarialSettings
from segrefinery.stages.optimizers import ScheduledOptimizer, build_optimizer, parameter_groups
from segrefinery.stages.target_guided import TargetGuided, target_stream

SOURCE, TARGET = 0.0, 1.0
PERFECT, PATIENCE = 0.999, 50


class Adversarial(Stage):
    """The segmenter and one discriminator a learner.

    Attributes:
        fooling: weight of the loss that fools each learner's discriminator; one of weight 0 is not built.
        guidance: of UncerDA's rounds, or None; a stage that follows a guided one continues its rounds.
        nothing_to_do: set by ``prepare``: why this round need not train, or None.
    """

    def __init__(self, settings: AdversarialSettings, context: StageContext) -> None:
        super().__init__()
        self.settings = settings
        self.space, self.normalization = context.space, context.normalization
        self.model = context.model
        self.fooling = {"main": settings.adversarial.main}
        if len(self.model.learner_channels) > 1:
            self.fooling["aux"] = settings.adversarial.aux
        self.discriminators = nn.ModuleDict(
            {
                learner: Discriminator(context.space.num_classes, settings.discriminator_width)
                for learner, weight in self.fooling.items()
                if weight
            }
        )
        guided = settings.target_guided
        self.guidance = TargetGuided(guided, context.space.classes) if guided is not None else None
        if self.guidance is not None and "target_guided" in context.handed_on:
            self.guidance.load_state_dict(context.handed_on["target_guided"])
        self.nothing_to_do: str | None = None
        self._accuracy: list[Tensor] = []
        self._perfect_steps = 0

    # -- the method --------------------------------------------------------------------------------------------------

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        settings, source, target = self.settings, batch.source, batch.target
        assert source is not None
        assert target is not None

        if on_labels := labels_losses(self.model, batch, settings, settings.weights):
            yield on_labels
        on_source = self.model(source.image)
        of_source = self.shown(on_source, source.image, detach=True)
        losses = head_losses("source", on_source, source.label, None, settings.weights)
        del on_source
        yield losses  # frees the source's graph before the target's is built

        image, label = target_stream(source, target.image, settings, self.normalization, batch.generators)
        on_target = self.model(image)
        losses = {}
        for learner, maps in self.shown(on_target, image).items():
            with frozen(self.discriminators[learner]):
                scores = self.discriminators[learner](maps)
            losses[f"fool_{learner}"] = self.fooling[learner] * domain_loss(scores, SOURCE, settings.objective)
        losses |= self.entropy_losses(on_target)
        if label is not None:
            losses |= head_losses("translated", on_target, label, None, settings.weights)
        of_target = self.shown(on_target, image, detach=True)
        del on_target
        yield losses

        losses = {}
        for learner, discriminator in self.discriminators.items():
            scores = discriminator(of_source[learner]), discriminator(of_target[learner])
            wrong = [domain_loss(each, domain, settings.objective) for each, domain in zip(scores, (SOURCE, TARGET))]
            losses[f"discriminator_{learner}"] = 0.5 * (wrong[0] + wrong[1])
            self._see(scores[0].detach(), scores[1].detach())
        yield losses

    def shown(self, prediction: Prediction, image: Tensor, detach: bool = False) -> dict[str, Tensor]:
        """What the discriminators look at, by learner: B x C x H x W."""
        maps = {}
        for learner, logits in (("main", prediction.logits), ("aux", prediction.aux_logits)):
            if logits is None or learner not in self.discriminators:
                continue
            logits = (logits.detach() if detach else logits).float()
            height, width = (image if self.settings.upsample else logits).shape[-2:]
            logits = bilinear(logits, (max(height, STRIDE), max(width, STRIDE)), prediction.aligned)
            maps[learner] = logits.softmax(dim=1) if self.settings.disc_input == "softmax" else self_information(logits)
        return maps

    def entropy_losses(self, prediction: Prediction) -> dict[str, Tensor]:
        weights, power = self.settings.entropy, self.settings.entropy_power
        losses = {}
        if weights.main:
            losses["entropy"] = weights.main * entropy_loss(prediction.logits, power)
        if weights.aux and prediction.aux_logits is not None:
            losses["entropy_aux"] = weights.aux * entropy_loss(prediction.aux_logits, power)
        return losses

    # -- what surrounds it -------------------------------------------------------------------------------------------

    def prepare(self, passes: Passes) -> None:
        """Draw the discriminators; in a guided round, measure what the target finds uncertain."""
        for discriminator in self.discriminators.values():
            assert isinstance(discriminator, Discriminator)
            discriminator.draw()
        if self.guidance is not None:
            self.nothing_to_do = self.guidance.begin(self.model, passes.target, passes.folder, self.settings.upsample)

    @property
    def guides_sampling(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.guidance is not None and self.guidance.guides_sampling

    def source_probabilities(self, pixel_counts: Tensor) -> Tensor | None:
        if self.guidance is None or not self.guidance.guides_sampling:
            return None
        return self.guidance.probabilities(pixel_counts)

    def optimizers(self) -> dict[str, ScheduledOptimizer]:
        settings = self.settings
        groups = parameter_groups(self.model, settings.optimizer)
        trained = {"model": build_optimizer(groups, settings.optimizer, settings.steps)}
        if self.discriminators:
            of_discriminators = settings.discriminator_optimizer
            group = {
                "params": list(self.discriminators.parameters()),
                "lr": of_discriminators.lr,
                "base_lr": of_discriminators.lr,
                "weight_decay": of_discriminators.weight_decay,
            }
            trained["discriminator"] = build_optimizer([group], of_discriminators, settings.steps)
        return trained

    def handed_on(self) -> dict[str, nn.Module]:
        return {} if self.guidance is None else {"target_guided": self.guidance}

    def numbers(self) -> dict[str, float]:
        """``discriminator_accuracy``: 0.5 where it cannot tell source from target, 1 where it has won. Warns when it
        has been right everywhere for 50 steps."""
        if not self._accuracy:
            return {}
        steps = len(self._accuracy) // len(self.discriminators)
        accuracy = torch.stack(self._accuracy).mean().item()
        self._accuracy.clear()
        known = self._perfect_steps
        self._perfect_steps = known + steps if accuracy >= PERFECT else 0
        if known < PATIENCE <= self._perfect_steps:
            warnings.warn(
                "the discriminators tell source from target without error, so they align nothing; lower "
                "discriminator_optimizer.lr or raise the adversarial weights. The run continues.",
                stacklevel=2,
            )
        return {"discriminator_accuracy": accuracy}

    def _see(self, on_source: Tensor, on_target: Tensor) -> None:
        edge = 0.0 if self.settings.objective == "vanilla" else 0.5
        right = (on_source < edge).float().mean() + (on_target >= edge).float().mean()
        self._accuracy.append(right / 2)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Graphs built inside pass gradients through the module, but collect none for its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
