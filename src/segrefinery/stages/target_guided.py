"""Target-guided rounds: source images that hold what the target finds uncertain are drawn more often.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021, section 4.1 and Fig. 2.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from segrefinery.data.batch import UnlabeledBatch
from segrefinery.data.sampling import soft_balance_probabilities
from segrefinery.stages.kinds import TargetGuidedSettings
from segrefinery.stages.target_guided.formulas import class_entropies, class_gains, uncertain_classes
from segrefinery.stages.target_guided.record import RoundRecord, settled

log = logging.getLogger(__name__)

FIRST_GUIDED_ROUND = 2
UNIFORM = 1.05
"""A gain up to which sampling is as good as uniform."""


class TargetGuided(nn.Module):
    """What guides a round, and what it hands on to the next.

    Buffers: ``number``, rounds begun; ``entropies`` C, what this round is guided by; ``ended``, whether rounds settled.
    """

    number: Tensor
    entropies: Tensor
    ended: Tensor

    def __init__(self, settings: TargetGuidedSettings, classes: Sequence[str]) -> None:
        super().__init__()
        self.settings = settings
        self.classes = list(classes)
        self.register_buffer("number", torch.tensor(0))
        self.register_buffer("entropies", torch.zeros(len(self.classes), dtype=torch.float64))
        self.register_buffer("ended", torch.tensor(False))
        self._folder: Path | None = None

    def begin(
        self, network: nn.Module, target: Iterable[UnlabeledBatch], folder: Path, upsample: bool = True
    ) -> str | None:
        """Begin the next round: measure what the target finds uncertain, and write the record into ``folder``.

        Args:
            network, target, upsample: as ``class_entropies`` takes them.

        Returns:
            Why the round need not train, or None.
        """
        before = self.record()
        self.number += 1
        reason = "an earlier round settled" if self.ended else None
        if self.favours_uncertain and reason is None:
            self.entropies.copy_(class_entropies(network, target, upsample))
            if any(before.class_entropies):
                reason = settled(before, self.record())
                self.ended.fill_(reason is not None)
        record = self.record()
        record.settled = reason
        record.save(folder)
        self._folder = folder
        return reason

    @property
    def favours_uncertain(self) -> bool:
        """Whether this round samples by the uncertain classes."""
        return self.settings.classes == "uncertain" and int(self.number) >= FIRST_GUIDED_ROUND

    @property
    def guides_sampling(self) -> bool:
        """Whether this round samples otherwise than evenly."""
        return self.settings.classes == "all" or self.favours_uncertain

    def probabilities(self, pixel_counts: Tensor) -> Tensor:
        """N sampling probabilities (eq. 3-5) of the source images from their N x C pixel counts. Tells what each class
        gains by them, and warns where sampling is as good as uniform."""
        record, settings = self.record(), self.settings
        favoured = record.uncertain if self.favours_uncertain else None
        probabilities = soft_balance_probabilities(
            pixel_counts, favoured, settings.balance, settings.steepness, settings.midpoint, clip=settings.clip
        )
        gains = class_gains(pixel_counts, probabilities)
        self._tell(gains, favoured)
        if self._folder is not None:
            record.probabilities = probabilities.tolist()
            record.gains = [None if gain != gain else gain for gain in gains.tolist()]
            record.save(self._folder)
        return probabilities

    def _tell(self, gains: Tensor, favoured: list[int] | None) -> None:
        order = range(len(self.classes)) if favoured is None else favoured
        told = ", ".join(f"{self.classes[place]} {float(gains[place]):.2f}" for place in order)
        log.info("round %d sees pixels so many times as often as under uniform sampling: %s", int(self.number), told)
        if not bool((gains[list(order)] > UNIFORM).any()):
            remedy = "set target_guided.midpoint: median" if self.settings.midpoint != "median" else "raise steepness"
            warnings.warn(
                f"guided sampling is as good as uniform (times as often as evenly: {told}); {remedy}, or leave the "
                "guidance out",
                stacklevel=2,
            )

    def record(self) -> RoundRecord:
        """This round as its state tells it."""
        favours = self.favours_uncertain
        sampling = "target_guided" if favours else "balanced" if self.settings.classes == "all" else "uniform"
        return RoundRecord(
            int(self.number),
            self.classes,
            self.entropies.tolist() if favours else [],
            uncertain_classes(self.entropies, self.settings.uncertain) if favours else [],
            sampling,
        )
