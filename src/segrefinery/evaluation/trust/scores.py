"""Label-free scores of a segmenter: pure functions on class probabilities of a fixed sample of target pixels.

None of them sees a label. Each can be fooled by some kind of failure (entropy and nuclear norm by confident errors,
consistency by collapse), which is why the verdict reads several of them together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-12


def entropy(probs: Tensor) -> Tensor:
    """Mean entropy of the predictions over log C, in [0, 1]; low = confident.

    Args:
        probs: N x C, rows sum to 1.

    Source: entropy minimisation, Grandvalet and Bengio 2004; as a validation score, Morerio et al. 2018.
    """
    return _entropy(_checked(probs)).mean() / math.log(probs.shape[1])


def information(probs: Tensor) -> Tensor:
    """Mutual information of pixel and class, H(mean p) - mean H(p), over log C, in [0, 1]; high = sure and diverse.

    Args:
        probs: N x C.

    Source: information maximisation, Krause et al. 2010; Shi and Sha 2012, eq. 3.
    """
    probs = _checked(probs)
    return (_entropy(probs.mean(dim=0)) - _entropy(probs).mean()) / math.log(probs.shape[1])


def nuclear_norm(probs: Tensor) -> Tensor:
    """Sum of the singular values of the N x C prediction matrix over its largest possible value sqrt(N min(N, C)).

    In (0, 1]: 1 if every prediction is one-hot and the classes are equally frequent, 1/sqrt(C) at a collapse.

    Source: batch nuclear-norm maximisation, Cui et al. 2020, eq. 6 and 8.
    """
    probs = _checked(probs)
    return gram_nuclear_norm(probs.T @ probs, len(probs))


def gram_nuclear_norm(gram: Tensor, rows: float | Tensor) -> Tensor:
    """The same from the Gram matrix P^T P (... x C x C) of ``rows`` rows; Gram matrices of images add up."""
    singular = torch.linalg.eigvalsh(gram.double()).clamp(min=0).sqrt().sum(dim=-1)
    rows = torch.as_tensor(rows, dtype=torch.float64)
    return singular / (rows * rows.clamp(max=gram.shape[-1])).clamp(min=1).sqrt()


def soft_neighborhood_density(probs: Tensor, temperature: float = 0.05) -> Tensor:
    """Mean entropy of every pixel's soft neighbourhood; high = predictions form dense clusters.

    S_ij is the cosine of two predictions, P_ij = softmax over j != i of S_ij / temperature.

    Args:
        probs: N x C, N at least 2; memory grows as N^2.

    Returns:
        The mean of -sum_j P_ij log P_ij, in [0, log(N - 1)].

    Source: Saito et al., ICCV 2021, eq. 1-3.
    """
    probs = _checked(probs)
    if len(probs) < 2:
        raise ValueError(f"probs must have at least 2 rows, got {len(probs)}")
    unit = torch.nn.functional.normalize(probs, dim=1)
    similarity = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    neighbors = similarity.softmax(dim=1)
    return _entropy(neighbors).mean()


def agreement(counts: Tensor) -> Tensor:
    """Share of pixels on which two predictions agree.

    Args:
        counts: ... x C x C, joint counts of the two.
    """
    counts = counts.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1)).clamp(min=1)


def balanced_agreement(counts: Tensor, expected: Tensor, floor: float = 2e-4) -> Tensor:
    """Mean over the expected classes of the intersection over union of two predictions.

    A class that neither predicts counts 0, so a model that has lost classes cannot score high by being constant.
    ``floor`` is added to every union, as a share of all pixels: a handful of pixels does not make a class.

    Args:
        counts: ... x C x C, joint counts of the two.
        expected: C bool, the classes the mean goes over.

    Returns:
        ... in [0, 1].
    """
    counts = counts.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - hits
    pixels = counts.sum((-2, -1))
    iou = hits / (union + floor * pixels.unsqueeze(-1)).clamp(min=EPSILON)
    return iou[..., expected].mean(dim=-1)


def balanced_recall(kept: Tensor, total: Tensor) -> Tensor:
    """Mean over the classes of kept / total, each class weighed by the square root of its share.

    Between the plain mean over pixels, blind to rare classes, and the plain mean over classes, at the mercy of them.

    Args:
        kept, total: ... x C counts.

    Returns:
        ... in [0, 1]; 1 where nothing was counted.
    """
    kept, total = kept.double(), total.double()
    weight = total.sqrt()
    share = (kept / total.clamp(min=EPSILON) * weight).sum(-1) / weight.sum(-1).clamp(min=EPSILON)
    return torch.where(weight.sum(-1) > 0, share, torch.ones_like(share))


def joint_counts(first: Tensor, second: Tensor, num_classes: int) -> Tensor:
    """C x C int64: how often class i of ``first`` meets class j of ``second``; two integer tensors of one shape."""
    if first.shape != second.shape:
        raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} must have the same shape")
    pairs = torch.bincount((first.long() * num_classes + second.long()).flatten().cpu(), minlength=num_classes**2)
    return pairs.view(num_classes, num_classes)


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """Half of the sum of absolute differences of two distributions (... x C), in [0, 1]."""
    return 0.5 * (first.double() - second.double()).abs().sum(-1)


def _entropy(probs: Tensor) -> Tensor:
    return -(probs * probs.clamp(min=EPSILON).log()).sum(dim=-1)


def _checked(probs: Tensor) -> Tensor:
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs):
        raise ValueError(f"probs must be N x C with N >= 1 and C >= 2, got {tuple(probs.shape)}")
    return probs.double()
