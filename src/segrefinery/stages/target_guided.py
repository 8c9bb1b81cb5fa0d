"""Target-guided rounds: which classes the target finds uncertain, and how that moves the sampling of the source.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021, section 4.1, eq. 1 and Fig. 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from segrefinery.core.files import read_json, write_json
from segrefinery.core.resize import bilinear
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.refine.confidence import normalized_entropy

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
        settled: why this round has nothing to do, or None.
    """

    number: int
    classes: list[str]
    class_entropies: list[float]
    uncertain: list[int]
    sampling: str
    probabilities: list[float] = field(default_factory=list)
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


@torch.no_grad()
def class_entropies(network: nn.Module, target: Iterable[UnlabeledBatch], upsample: bool = True) -> Tensor:
    """Mean normalised entropy of the target pixels predicted as each class (eq. 1), float64 C; streams.

    A class that is never predicted counts as most uncertain: 1. (Our choice; the paper is silent.)

    Args:
        network: image -> ``Prediction``.
        upsample: take the pixels of the image (the paper's protocol) or of the network's own grid, which is cheaper.
    """
    pixels = sums = torch.zeros(0)
    for batch in target:
        logits = network(batch.image).logits.float()
        if upsample:
            logits = bilinear(logits, batch.image.shape[-2:])
        probs = logits.softmax(dim=1)
        entropy, label = normalized_entropy(probs), probs.max(dim=1).indices
        known = entropy.isfinite()
        if not len(pixels):
            pixels, sums = torch.zeros(2, probs.shape[1], dtype=torch.float64, device=probs.device)
        pixels = pixels + torch.bincount(label[known], minlength=len(pixels))
        sums = sums + torch.bincount(label[known], weights=entropy[known].double(), minlength=len(pixels))
    return torch.where(pixels > 0, sums / pixels.clamp(min=1), 1.0)


def uncertain_classes(entropies: Tensor, k: int = 7) -> list[int]:
    """S_k: ids of the k classes with the highest entropy, the worst first; ties go to the lower id, and all classes are
    uncertain where k exceeds their number."""
    if k < 1:
        raise ValueError(f"k: at least 1 expected, got {k}")
    return torch.argsort(entropies, descending=True, stable=True)[:k].tolist()


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
