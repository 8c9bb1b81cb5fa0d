"""Class prototypes in feature space: distances to them, and how they are gathered and moved (ProDA; CPSL eq. 7)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.precision import wide
from segrefinery.core.randomness import generator
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.models.teacher import Teacher, TeacherView

CHUNK = 4096  # pixels at a time: what the processor's cache holds, and all the extra memory that is needed
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
            found = squared.clamp_min(1e-12).sqrt()
            near = (squared < NEAR * scale).any(dim=0).nonzero()[:, 0]
            if not len(near):
                return found
            exact = torch.cdist(pixels[:, near].T, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
            return found.index_copy(1, near, exact.T)

        return _by_chunks(distances, features, prototypes)


def cosine_similarities(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines B x C x h x w between features B x D x h x w and prototypes C x D; differentiable."""
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(wide(prototypes), dim=1)

        def cosines(pixels: Tensor) -> Tensor:
            return directions @ pixels / pixels.square().sum(dim=0).clamp_min(1e-24).sqrt()

        return _by_chunks(cosines, features, prototypes)


def _by_chunks(function: Callable[[Tensor], Tensor], features: Tensor, prototypes: Tensor) -> Tensor:
    """Apply a function D x n -> C x n to all pixels, some at a time."""
    if features.ndim != 4 or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[1]:
        shapes = f"{tuple(features.shape)} and {tuple(prototypes.shape)}"
        raise ValueError(f"features must be B x D x h x w and prototypes C x D, got {shapes}")
    images = [
        torch.cat([function(wide(part)) for part in image.split(CHUNK, dim=1)], dim=1) for image in features.flatten(2)
    ]
    return torch.stack(images).unflatten(2, features.shape[-2:])


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sums of the features of each class's pixels, image by image.

    Args:
        features: B x D x h x w.
        labels: B x h x w int64, 255 ignored.

    Returns:
        Sums B x C x D and numbers of pixels B x C.

    Raises:
        SegRefineryError: a feature is not finite.
    """
    with torch.autocast(features.device.type, enabled=False):
        classes = torch.arange(num_classes, device=labels.device)
        one_hot = (labels.flatten(1)[:, None] == classes[:, None]).to(wide(features[:0]).dtype)
        sums = one_hot @ wide(features).flatten(2).transpose(1, 2)
        require_finite(sums)
        return sums, one_hot.sum(dim=2)


def require_finite(values: Tensor) -> None:
    """Stop before a network that has diverged spoils what we remember of its features.

    Raises:
        SegRefineryError: a value is NaN or infinite.
    """
    if not bool(values.isfinite().all()):
        raise SegRefineryError(
            "the teacher's features are NaN or infinite: the network diverged or its weights are damaged; check the "
            "losses before this step, lower optimizer.lr, or start from other weights"
        )


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


@dataclass
class ClassStatistics:
    """What one pass over the target finds.

    Attributes:
        prototypes: C x D, finite for every class.
        distribution: C, the share of each class among the teacher's hard labels (CPSL eq. 10), sums to 1.
    """

    prototypes: Tensor
    distribution: Tensor


@torch.no_grad()
def gather_statistics(
    teacher: Teacher,
    source: Iterable[LabeledBatch],
    target: Iterable[UnlabeledBatch],
    classes: Sequence[str],
    mean: Literal["pixels", "images"] = "pixels",
    normalize: bool = False,
    least: int = 10,
) -> ClassStatistics:
    """Class prototypes and class distribution of the target by the teacher's own hard labels, in one streaming pass.

    A class that the teacher never sees in the target takes its prototype from labelled source pixels; a class that is
    not there either gets a random direction. Both are warned of by name.

    Args:
        classes: names of the C classes.
        mean: over all pixels of a class (eq. 7), or over the class means of images with at least ``least`` pixels of
            the class (the official code).
        normalize: average features of length 1 (CPSL).

    Raises:
        SegRefineryError: no target image, or features that are not finite.
    """

    def labelled(views: Iterable[tuple[TeacherView, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for view, labels in views:
            yield F.normalize(view.features.float(), dim=1) if normalize else view.features, labels

    seen = ((view, view.logits.argmax(dim=1)) for view in (teacher.view(batch.image, batch.index) for batch in target))
    prototypes, weights, pixels = _class_means(labelled(seen), len(classes), mean, least)
    missing = weights == 0
    if bool(missing.any()):
        known = ((teacher.view(batch.image, batch.index), batch.label) for batch in source)
        fitted = ((view, _nearest(label, view.features)) for view, label in known)
        from_source, found, _ = _class_means(labelled(fitted), len(classes), "pixels", least, wanted=missing)
        prototypes = torch.where((missing & (found > 0))[:, None], from_source, prototypes)
        nowhere = missing & (found == 0)
        # A random direction is far from every pixel, and its length, unlike zero, keeps gradients finite.
        random = torch.randn(prototypes.shape, generator=generator("prototypes", *classes)).to(prototypes)
        length = prototypes.norm(dim=1)[~nowhere].mean() if bool((~nowhere).any()) else 1.0
        prototypes = torch.where(nowhere[:, None], F.normalize(random, dim=1) * length, prototypes)
        _warn(classes, missing & ~nowhere, "their prototypes are those of labelled source pixels")
        _warn(classes, nowhere, "the source labels hold none either; their prototypes are random directions")
    return ClassStatistics(prototypes, pixels / pixels.sum())


def _class_means(
    batches: Iterator[tuple[Tensor, Tensor]], num_classes: int, mean: str, least: int, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Running class means C x D, the weight of each (pixels or images) and the numbers of pixels; stops early once
    every class in ``wanted`` has ``least`` pixels."""
    means = weights = pixels = None
    for features, labels in batches:
        sums, counts = class_sums(features, labels, num_classes)
        if means is None or weights is None or pixels is None:
            means = torch.zeros_like(sums[0])
            weights, pixels = torch.zeros_like(counts[0]), torch.zeros(num_classes, dtype=torch.int64)
        for total, count in zip(sums, counts, strict=True):
            weight = count if mean == "pixels" else (count >= least).to(count)
            weights = weights + weight
            means = means + (total / count.clamp_min(1)[:, None] - means) * (weight / weights.clamp_min(1))[:, None]
        pixels += counts.sum(dim=0).cpu().long()
        if wanted is not None and bool((pixels[wanted.cpu()] >= least).all()):
            break
    if means is None or weights is None or pixels is None:
        raise SegRefineryError("there is no image to gather class prototypes from; check data.source and data.target")
    return means, weights, pixels.to(means.device)


def _nearest(labels: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(labels[:, None].float(), like.shape[-2:], mode="nearest")[:, 0].long()


def _warn(classes: Sequence[str], chosen: Tensor, what: str) -> None:
    names = [name for name, is_chosen in zip(classes, chosen.tolist(), strict=True) if is_chosen]
    if names:
        warnings.warn(f"the teacher labels hardly any target pixel as {', '.join(names)}; {what}", stacklevel=3)
