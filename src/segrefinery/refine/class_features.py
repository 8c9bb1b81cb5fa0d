"""Features class by class: their sums, the target's prototypes and class shares in one pass (ProDA; CPSL eq. 7, 10)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixelwise import highest
from segrefinery.core.precision import wide
from segrefinery.core.randomness import generator
from segrefinery.core.resize import nearest
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.models.teacher import Teacher, TeacherView

CHUNK = 4096  # pixels at a time: what the processor's cache holds, and all the extra memory that is needed


def by_chunks(function: Callable[[Tensor], Tensor], features: Tensor, prototypes: Tensor) -> Tensor:
    """Apply a function D x n -> C x n to all pixels, some at a time."""
    if features.ndim != 4 or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[1]:
        shapes = f"{tuple(features.shape)} and {tuple(prototypes.shape)}"
        raise ValueError(f"features must be B x D x h x w and prototypes C x D, got {shapes}")
    images = [
        torch.cat([function(wide(part)) for part in image.split(CHUNK, dim=1)], dim=1) for image in features.flatten(2)
    ]
    if not images:
        return wide(features).new_zeros(0, len(prototypes), *features.shape[-2:])
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

    views = ((view, highest(view.logits)) for view in (teacher.view(batch.image, batch.index) for batch in target))
    prototypes, weights, pixels = _class_means(labelled(views), len(classes), mean, least)
    missing = weights == 0
    if bool(missing.any()):
        known = ((teacher.view(batch.image, batch.index), batch.label) for batch in source)
        fitted = ((view, nearest(label, view.features.shape[-2:], view.aligned)) for view, label in known)
        from_source, in_source, _ = _class_means(labelled(fitted), len(classes), "pixels", least, missing, prototypes)
        prototypes = torch.where((missing & (in_source > 0))[:, None], from_source, prototypes)
        nowhere = missing & (in_source == 0)
        # A random direction is far from every pixel, and its length, unlike zero, keeps gradients finite.
        random = torch.randn(prototypes.shape, generator=generator("prototypes", *classes)).to(prototypes)
        length = prototypes.norm(dim=1)[~nowhere].mean() if bool((~nowhere).any()) else 1.0
        prototypes = torch.where(nowhere[:, None], F.normalize(random, dim=1) * length, prototypes)
        _warn(classes, missing & ~nowhere, "their prototypes are those of labelled source pixels")
        _warn(classes, nowhere, "no source label is one of them either; their prototypes are random directions")
    return ClassStatistics(prototypes, pixels / pixels.sum())


def _class_means(
    batches: Iterator[tuple[Tensor, Tensor]], num_classes: int, mean: str, least: int, wanted: Tensor | None = None,
    like: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Running class means C x D, the weight of each (pixels or images) and the numbers of pixels; stops early once
    every class in ``wanted`` has ``least`` pixels. Without any batch zeros of the shape of ``like``."""
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
        if like is None:
            raise SegRefineryError(
                "there is no image to gather class prototypes from; check data.source and data.target"
            )
        return torch.zeros_like(like), like.new_zeros(num_classes), torch.zeros(num_classes, dtype=torch.int64)
    return means, weights, pixels.to(means.device)


def _warn(classes: Sequence[str], chosen: Tensor, what: str) -> None:
    names = [name for name, is_chosen in zip(classes, chosen.tolist(), strict=True) if is_chosen]
    if names:
        warnings.warn(f"the teacher labels hardly any target pixel as {', '.join(names)}; {what}", stacklevel=3)
