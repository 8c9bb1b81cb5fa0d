"""What UncerDA adds to adversarial rounds: source images that hold what the target finds uncertain are drawn more
often, and some appear in target style in the target stream.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021, sections 4.1 and 5.3 and Fig. 2. The alignment
inside a round is AdaptSegNet's (``adversarial.py``); the formulas stand beside those of UncerDA's labels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.files import read_json, write_json
from segrefinery.core.resize import nearest
from segrefinery.data.batch import LabeledBatch, TranslatedBatch, UnlabeledBatch
from segrefinery.data.photometric import PerBand
from segrefinery.data.sampling import soft_balance_probabilities
from segrefinery.data.translation import translate
from segrefinery.labels import IGNORE
from segrefinery.refine.entropy_mixture.formulas import class_entropies, class_gains, uncertain_classes
from segrefinery.refine.entropy_mixture.settings import TargetGuidedSettings
from segrefinery.stages.kinds import AdversarialSettings

log = logging.getLogger(__name__)

FILE = "round.json"
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


@dataclass
class RoundRecord:
    """What one round knew before it trained; written as ``round.json`` into the stage's folder.

    Attributes:
        number: counted from 1.
        classes: class names.
        class_entropies: C, mean entropy of the target pixels predicted as each class; 1 if never predicted.
        uncertain: S_k, ids of the most uncertain classes, the worst first; empty if this round samples evenly.
        sampling: ``uniform``, ``balanced`` (all classes) or ``target_guided`` (S_k).
        probabilities: of each source image; empty for uniform sampling.
        gains: C, how many times as often a pixel of each class is seen as under uniform sampling; None for a class
            without any pixel, empty for uniform sampling.
        settled: why this round has nothing to do, or None.
    """

    number: int
    classes: list[str]
    class_entropies: list[float]
    uncertain: list[int]
    sampling: str
    probabilities: list[float] = field(default_factory=list)
    gains: list[float | None] = field(default_factory=list)
    settled: str | None = None

    @property
    def mean_entropy(self) -> float:
        """Mean over the classes: the label-free score of the rounds."""
        return sum(self.class_entropies) / max(len(self.class_entropies), 1)

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self), indent=1)

    @classmethod
    def load(cls, folder: Path) -> RoundRecord:
        return cls(**read_json(folder / FILE, "delete the folder of this stage and continue the run with --resume"))


def settled(previous: RoundRecord, current: RoundRecord) -> str | None:
    """Why rounds end before ``current`` trains, or None: its uncertain classes are those the last round already
    favoured, or the last round did not lower the mean entropy.

    The paper's second reason is a validation score that does not improve; without labels, the mean entropy over the
    classes takes its place.
    """
    if current.uncertain and set(previous.uncertain) == set(current.uncertain):
        return "the uncertain classes did not change"
    if current.mean_entropy >= previous.mean_entropy:
        return "the mean entropy on the target no longer falls"
    return None


def target_stream(
    source: LabeledBatch,
    target: Tensor,
    settings: AdversarialSettings,
    normalization: tuple[PerBand, PerBand],
    random: list[torch.Generator],
) -> tuple[Tensor, Tensor | None]:
    """The target images B x 3 x H x W, some replaced by a source image in their style (section 5.3) -> images, and the
    labels B x H x W of those that were (255 elsewhere), or None where nothing is to be learned from them."""
    if settings.translation is None:
        return target, None
    chosen = [torch.rand((), generator=generator).item() < settings.translated_share for generator in random]
    if not any(chosen):
        return target, None
    places = torch.tensor(chosen).nonzero()[:, 0].to(target.device, non_blocking=True)
    partners = places % len(source)
    content, label = source.image[partners], source.label[partners]
    from_folder = settings.translation.kind == "folder"
    if from_folder:
        assert isinstance(source, TranslatedBatch), "a folder's translations come with the source batch"
        content = source.translated[partners]
    if content.shape[-2:] != target.shape[-2:]:
        content = F.interpolate(content, target.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        label = nearest(label, target.shape[-2:])
    if not from_folder:
        content = translate(content, target[places], settings.translation, *normalization)
    images = target.index_copy(0, places, content.to(target.dtype))
    if not settings.translated_ce:
        return images, None
    labels = label.new_full((len(target), *label.shape[1:]), IGNORE)
    return images, labels.index_copy(0, places, label)
