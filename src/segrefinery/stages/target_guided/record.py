"""What a round knew before it trained, and when rounds end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from segrefinery.core.files import read_json, write_json

FILE = "round.json"


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
