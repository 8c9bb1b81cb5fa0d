"""What scores a run's models: passes over images, of which every process does its share.

The first process decides what is asked (what is kept already is not), and the others do their part of it while they
wait. An image is looked at by itself, so the scores are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.events import RunEvents, StageEnd
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.evaluation.scoring import Evaluation, evaluate_network
from segrefinery.evaluation.trust import Observation, look, sample_images
from segrefinery.evaluation.windows import Size

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from segrefinery.engine.feed import RunData

EVALUATION, HELD_OUT, TARGET = "evaluation", "held_out", "target"
Progress = Callable[[int, int], None]


def unheard(done: int, total: int) -> None:
    del done, total


@dataclass
class Scorer:
    """Scores networks on the images of a run.

    Attributes:
        fabric: the processes. sets: the data sets; of the target no labels are asked for.
        data: how images are resized and normalised. num_classes: of the networks. window: of sliding windows, or None.
    """

    fabric: Fabric
    sets: RunData
    data: DataSettings
    num_classes: int
    window: Size | None = None

    def evaluate(self, network: nn.Module, role: str, progress: Progress = unheard) -> Evaluation:
        """Counts on the labelled images of a role: ``EVALUATION`` or ``HELD_OUT``."""
        parts = self._asked(network, role, progress)
        per_image = interleaved([part.per_image for part in parts])
        total = ConfusionMatrix(self.num_classes)
        total.matrix += per_image.sum(dim=0)
        return Evaluation(total, per_image)

    def look(self, network: nn.Module) -> Observation:
        """One bounded look at target images, without labels."""
        parts: list[Observation] = self._asked(network, TARGET, unheard)
        names: list[Any] = [None] * sum(len(part.names) for part in parts)
        for number, part in enumerate(parts):
            names[number :: len(parts)] = part.names
        views = {view: interleaved([part.views[view] for part in parts]) for view in parts[0].views}
        probs, stable, density = (
            interleaved([getattr(part, field) for part in parts]) for field in ("probs", "stable", "density")
        )
        return Observation(names, probs, views, stable, density)

    def follow(self, network: nn.Module) -> None:
        """In all processes but the first: do what it asks for, until it is done."""
        while (role := self.fabric.broadcast(None)) is not None:
            self._gathered(network, role, unheard)

    def done(self) -> None:
        """In the first process: nothing more is asked of this network."""
        if self.fabric.world_size > 1:
            self.fabric.broadcast(None)

    def _asked(self, network: nn.Module, role: str, progress: Progress) -> list[Any]:
        """What each process found on its share."""
        if self.fabric.world_size == 1:
            return [self._share(network, role, progress)]
        self.fabric.broadcast(role)
        return self._gathered(network, role, progress)

    def _gathered(self, network: nn.Module, role: str, progress: Progress) -> list[Any]:
        """This process's share and those of the others; a fault of one is raised in all."""
        try:
            share, fault = self._share(network, role, progress), None
        except SegRefineryError as error:
            share, fault = None, str(error)
        told: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(told, (share, fault))
        for _, fault in told:
            if fault is not None:
                raise SegRefineryError(fault)
        return [share for share, _ in told]

    def _share(self, network: nn.Module, role: str, progress: Progress) -> Evaluation | Observation:
        rank, world = self.fabric.global_rank, self.fabric.world_size
        if role == TARGET:
            places = range(rank, len(sample_images(self.sets.target)), world)
            return look(network, self.sets.target, self.data, self.num_classes, self.window, places=places)
        images: Any = getattr(self.sets, role)
        return evaluate_network(
            network, images, self.data, self.num_classes, self.window, images=range(rank, len(images), world),
            progress=lambda count, _: progress(min(count * world, len(images)), len(images)),
        )  # fmt: skip


def interleaved(shares: Sequence[Tensor]) -> Tensor:
    """Rows of images that were dealt out in turn, in their order."""
    whole = shares[0].new_empty(sum(len(share) for share in shares), *shares[0].shape[1:])
    for number, share in enumerate(shares):
        whole[number :: len(shares)] = share
    return whole


class Led(RunEvents):
    """Tells others of a run, in its first process; what they ask of the scorer all processes do."""

    def __init__(self, listeners: RunEvents, scorer: Scorer) -> None:
        self.said, self.progressed, self.concluded = listeners.said, listeners.progressed, listeners.concluded
        self.listeners, self.scorer = listeners, scorer

    def looked(self, end: StageEnd, step: int) -> None:
        self.listeners.looked(end, step)
        self.scorer.done()

    def ended(self, end: StageEnd) -> None:
        self.listeners.ended(end)
        self.scorer.done()


class Following(RunEvents):
    """Does the share of another process than the first."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def looked(self, end: StageEnd, step: int) -> None:
        del step
        self.scorer.follow(end.predictor)

    def ended(self, end: StageEnd) -> None:
        self.scorer.follow(end.predictor)
