"""Entropy minimisation: the network becomes sure of the target by the scales and shifts of its batch norms alone.

TENT (Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021), over a set of images instead
of a stream: statistics are measured on the whole target first, and then follow its batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.losses import entropy_loss
from segrefinery.models.batch_norm import batch_norms, measure_statistics
from segrefinery.stages.base import Passes, Stage, StageContext, StepBatch
from segrefinery.stages.kinds import EntropyMinimizationSettings
from segrefinery.stages.optimizers import ScheduledOptimizer, build_optimizer


class EntropyMinimization(Stage):
    """A network of which nothing learns but the scales and shifts of its batch norms."""

    prepares_model = True

    def __init__(self, settings: EntropyMinimizationSettings, context: StageContext) -> None:
        super().__init__()
        self.settings, self.model = settings, context.model
        if not self.learned:
            raise SegRefineryError(
                "entropy_minimization: learns the scales and shifts of batch norms, and this network has none; take "
                "another network, or the recipe source_free"
            )
        for parameter in self.learned:
            parameter.requires_grad_(True)

    @property
    def learned(self) -> list[nn.Parameter]:
        return [parameter for norm in batch_norms(self.model) for parameter in norm.parameters()]

    def prepare(self, passes: Passes) -> None:
        measure_statistics(self.model, (batch.image for batch in passes.target))

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        assert batch.target is not None
        with learning_alone(self.model, self.learned):
            yield {"entropy": entropy_loss(self.model(batch.target.image).logits)}

    def optimizers(self) -> dict[str, ScheduledOptimizer]:
        settings = self.settings.optimizer
        group = {"params": self.learned, "lr": settings.lr, "base_lr": settings.lr, "weight_decay": 0.0}
        return {"model": build_optimizer([group], settings, self.settings.steps)}


@contextmanager
def learning_alone(network: nn.Module, learned: Collection[nn.Parameter]) -> Iterator[None]:
    """Within, graphs lead to ``learned`` and to no other parameter of the network."""
    theirs = {id(parameter) for parameter in learned}
    others = [each for each in network.parameters() if each.requires_grad and id(each) not in theirs]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
