"""Which classes the target finds uncertain, and what guided sampling gains: formulas of UncerDA's rounds.

Wang, Peng & Zhang, "Uncertainty-aware Pseudo Label Refinery", ICCV 2021, section 4.1, eq. 1. Eq. 3 to 5, the sampling
itself, are ``soft_balance_probabilities`` in ``data/sampling.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.refine.confidence import normalized_entropy


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
        seen = network(batch.image)
        logits = seen.logits.float()
        if upsample:
            logits = bilinear(logits, batch.image.shape[-2:], seen.aligned)
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


def class_gains(pixel_counts: Tensor, probabilities: Tensor) -> Tensor:
    """C: how many times as often a pixel of each class is seen as under uniform sampling; NaN for a class without any.

    Args:
        pixel_counts: N x C pixels of each class in each image.
        probabilities: N sampling probabilities that sum to 1.
    """
    counts = pixel_counts.double()
    return (probabilities.double() @ counts) / counts.mean(dim=0)
