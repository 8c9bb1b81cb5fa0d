"""The formulas of class-balanced pixel self-labelling (CPSL): assignment, rectification, class distribution,
sampling, consistency.

Li, Li, He, Zhang, Jia, Zhang: Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation,
CVPR 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.precision import wide
from segrefinery.labels import IGNORE
from segrefinery.losses import kl_divergence
from segrefinery.refine.class_features import by_chunks

SAFE_RANGE = 50.0  # spread of scores / epsilon up to which products of exponentials stay inside float32


def cosine_similarities(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines B x C x h x w between features B x D x h x w and clusters C x D (scores of eq. 4); differentiable."""
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(wide(prototypes), dim=1)

        def cosines(pixels: Tensor) -> Tensor:
            return directions @ pixels / pixels.square().sum(dim=0).clamp_min(1e-24).sqrt()

        return by_chunks(cosines, features, prototypes)


@torch.no_grad()
def sinkhorn(scores: Tensor, class_marginal: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignment of pixels to classes with a given share of each class (eq. 6).

    Each iteration scales the classes to their marginal, then the pixels to 1; so every row sums to 1 exactly, and the
    marginal is met in the limit. Scores of any size are safe: a wide spread is computed with logarithms.

    Args:
        scores: M x C.
        class_marginal: C shares, at least 0; only their proportions count. A class of share 0 gets nothing.
        epsilon: temperature; smaller is harder.
        iterations: at least 1.

    Returns:
        M x C, rows sum to 1; without gradient, as a training target is.

    Raises:
        ValueError: shapes that do not fit, no iteration, an epsilon that is not positive, or marginals that are
            negative, NaN or all 0.
    """
    if scores.ndim != 2 or class_marginal.shape != scores.shape[1:]:
        shapes = f"{tuple(scores.shape)} and {tuple(class_marginal.shape)}"
        raise ValueError(f"scores must be M x C and class_marginal C, got {shapes}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if not (bool((class_marginal >= 0).all()) and bool(class_marginal.sum() > 0)):
        raise ValueError(f"class_marginal must be at least 0 and not all 0, got {class_marginal.tolist()}")
    if not len(scores):
        return torch.zeros_like(wide(scores))
    with torch.autocast(scores.device.type, enabled=False):
        scores = wide(scores)
        # In pixels, as the rows are: scaling to another total would let the factors drift at every iteration.
        marginal = class_marginal.to(scores) * (len(scores) / class_marginal.to(scores).sum())
        lowest, highest = torch.aminmax(scores)
        exponents = scores.sub(highest).div_(epsilon)
        if bool(highest - lowest <= SAFE_RANGE * epsilon):
            return _scale(exponents.exp_(), marginal, iterations)
        return _scale_logarithms(exponents, marginal, iterations)


def _scale(kernel: Tensor, marginal: Tensor, iterations: int) -> Tensor:
    pixels = torch.ones_like(kernel[:, 0])
    classes = marginal
    for _ in range(iterations):
        classes = marginal / (pixels @ kernel)
        pixels = 1 / (kernel @ classes)
    return kernel.mul_(classes).mul_(pixels[:, None])


def _scale_logarithms(exponents: Tensor, marginal: Tensor, iterations: int) -> Tensor:
    pixels = torch.zeros_like(exponents[:, :1])
    scaled = exponents
    for _ in range(iterations):
        scaled = exponents + (marginal.log() - (exponents + pixels).logsumexp(dim=0))
        pixels = -scaled.logsumexp(dim=1, keepdim=True)
    return scaled.softmax(dim=1)


def rectify(cluster_probs: Tensor, soft_labels: Tensor) -> Tensor:
    """Soft labels weighed by the clusters (eq. 1): their product, normalised over classes.

    Args:
        cluster_probs, soft_labels: B x C x h x w.

    Returns:
        B x C x h x w, sums to 1 over classes. Where the two share no class, the soft labels stand.
    """
    if cluster_probs.shape != soft_labels.shape:
        shapes = f"{tuple(cluster_probs.shape)} and {tuple(soft_labels.shape)}"
        raise ValueError(f"cluster_probs and soft_labels must have one shape, got {shapes}")
    product = wide(cluster_probs) * wide(soft_labels)
    total = product.sum(dim=1, keepdim=True)
    shared = total > 0
    return torch.where(shared, product / total.masked_fill(~shared, 1.0), wide(soft_labels))


def update_class_distribution(distribution: Tensor, labels: Tensor, momentum: float) -> Tensor:
    """Moving average of the class distribution (eq. 8, 11): momentum * old + (1 - momentum) * mean class shares.

    Args:
        distribution: C, sums to 1.
        labels: B x H x W integers; 255 counts for nothing, and an image that is all 255 is left out.
        momentum: weight of the old distribution.

    Returns:
        C, sums to 1, in float32 or better.

    Raises:
        ValueError: a label that is neither a class nor 255; a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum: a share in [0, 1] expected, got {momentum}")
    num_classes = len(distribution)
    flat = labels.flatten(1)
    valid = flat != IGNORE
    if bool((valid & ((flat < 0) | (flat >= num_classes))).any()):
        raise ValueError(f"labels must be 0 to {num_classes - 1} or 255")
    offsets = torch.arange(len(flat), device=labels.device)[:, None] * num_classes
    counts = torch.bincount((flat + offsets)[valid], minlength=len(flat) * num_classes).view(len(flat), num_classes)
    counts = counts[counts.sum(dim=1) > 0].to(wide(distribution))
    if not len(counts):
        return wide(distribution).clone()
    shares = (counts / counts.sum(dim=1, keepdim=True)).mean(dim=0)
    return momentum * wide(distribution) + (1 - momentum) * shares


def balanced_positions(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Pixels of one image, drawn class by class in proportion (eq. 8, 9).

    floor(size * share) random pixels of each class, then random ones of what is left until there are ``size``.

    Args:
        labels: N int64 on the CPU, 255 never drawn.
        size: M; all pixels are taken where there are fewer.

    Returns:
        At most M distinct places in ``labels``.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order] != IGNORE]
    if not len(order):
        return order
    drawn = labels[order]
    grouped = drawn.argsort(stable=True)
    counts = torch.bincount(drawn)
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[drawn[grouped]]
    first = rank < (counts * min(size, len(order)) // len(order))[drawn[grouped]]
    chosen, left = grouped[first], grouped[~first].sort().values
    return order[torch.cat([chosen, left[: max(size - len(chosen), 0)]])]


def uniform_positions(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """At most ``size`` distinct random places of N labels (CPU, 255 never drawn), whatever their class."""
    order = torch.randperm(len(labels), generator=generator)
    return order[labels[order] != IGNORE][:size]


def symmetric_kl(weak_logits: Tensor, strong_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL in both directions between the softmaxes of two B x C x h x w logits, per pixel (CPSL eq. 13)."""
    return kl_divergence(weak_logits, strong_logits, mask) + kl_divergence(strong_logits, weak_logits, mask)
