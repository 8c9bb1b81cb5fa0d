"""Class prototypes in feature space: distances to them, and how they move (ProDA).

Zhang, Zhang, Zhang, Chen, Wang, Wen: Prototypical Pseudo Label Denoising and Target Structure Learning, CVPR 2021.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segrefinery.core.precision import wide
from segrefinery.refine.class_features import by_chunks, class_sums

NEAR = 1e-3  # squared distance, relative to the squared lengths, below which the expanded form loses digits


def prototype_weights(features: Tensor, prototypes: Tensor, temperature: float = 1.0) -> Tensor:
    """How near each pixel is to each class: softmax over classes of -distance / temperature (ProDA).

    Args:
        features: B x D x h x w, not normalised.
        prototypes: C x D.
        temperature: divides the Euclidean distance.

    Returns:
        B x C x h x w, sums to 1 over classes.

    Raises:
        ValueError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive: got {temperature}")
    return (prototype_distances(features, prototypes) / -temperature).softmax(dim=1)


def prototype_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """Euclidean distances B x C x h x w of features B x D x h x w to prototypes C x D; differentiable.

    Computed as ``|x|^2 - 2 x.p + |p|^2``, which needs no B x C x D x h x w tensor; pixels so near a prototype that
    this form would lose digits are computed again by difference.
    """
    with torch.autocast(features.device.type, enabled=False):
        prototypes = wide(prototypes)
        squared_norms = prototypes.square().sum(dim=1, keepdim=True)

        def distances(pixels: Tensor) -> Tensor:
            scale = squared_norms + pixels.square().sum(dim=0)
            squared = torch.addmm(scale, prototypes, pixels, alpha=-2)
            lengths = squared.clamp_min(1e-12).sqrt()
            near = (squared < NEAR * scale).any(dim=0).nonzero()[:, 0]
            if not len(near):
                return lengths
            exact = torch.cdist(pixels[:, near].T, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
            return lengths.index_copy(1, near, exact.T)

        return by_chunks(distances, features, prototypes)


def move_prototypes(
    prototypes: Tensor, features: Tensor, labels: Tensor, momentum: float, each: Literal["batch", "image"], least: int
) -> Tensor:
    """The moving average of prototypes C x D after a batch (ProDA): momentum * old + (1 - momentum) * class means.

    Args:
        prototypes: C x D.
        features, labels: B x D x h x w and B x h x w (255 ignored).
        each: one move a batch, or one an image (the official code).
        least: a class with fewer pixels than this does not move.
    """
    sums, counts = class_sums(features, labels, len(prototypes))
    if each == "batch":
        sums, counts = sums.sum(dim=0, keepdim=True), counts.sum(dim=0, keepdim=True)
    for total, count in zip(sums, counts, strict=True):
        means = total / count.clamp_min(1)[:, None]
        prototypes = torch.where((count >= least)[:, None], prototypes.lerp(means, 1 - momentum), prototypes)
    return prototypes
