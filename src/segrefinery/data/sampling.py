"""Which image a training step sees: sampling probabilities of the papers, and samplers without state.

A sampler is a pure function of its seed and a position, so it has nothing to save: a resumed run asks for the next
position, and a rank of a distributed run asks for its slice of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator, seed_of


def soft_balance_probabilities(
    pixel_counts: Tensor,
    classes: Sequence[int] | Tensor | None = None,
    balance: float = 0.9,
    steepness: float = 80.0,
    midpoint: float | Literal["median"] = 0.02,
    *,
    clip: bool = True,
) -> Tensor:
    """UncerDA's sampling probability of each source image (eq. 3-5).

    With N_c the pixels of class c in the data set, N_c(x) those in image x and l = 1 - balance::

        p_c = N_c^(l-1) / sum over classes            (eq. 3, normalised to sum 1, without which eq. 5 is constant)
        p(x) = sum over c in S, c in x of p_c * N_c(x)^l / (sum over c in S, c in x of N_c(x)^l)          (eq. 4)
        p^(x) = 0.1 + sigmoid(steepness * (p(x) - midpoint))                                              (eq. 5)

    and the result is proportional to min(p^, 1). A class that occurs nowhere gets no share of p_c; an image without any
    class of S keeps the floor p^ = 0.268.

    Args:
        pixel_counts: N x C pixels of each class in each image, or their shares of one number.
        classes: S, the uncertain classes (ids or a bool mask of C); None = all.
        balance: 0 = none, 1 = class balance (the paper's Table 4; eq. 3 of the paper uses 1 - balance).
        steepness, midpoint: of the sigmoid, in units of p(x); ``median`` (ours) is that of the images that hold a
            class of S, so that the sigmoid parts them wherever their scores lie.
        clip: False leaves p^ above 1 as it is.

    Returns:
        N probabilities, float64, that sum to 1; all equal if no image holds a class of S.

    Raises:
        ValueError: counts that are not N x C or negative, a class outside 0..C-1, a balance outside [0, 1].
    """
    counts = _counts(pixel_counts, 2)
    num_classes = counts.shape[1]
    if not 0 <= balance <= 1:
        raise ValueError(f"balance must lie in [0, 1]: got {balance}")
    chosen = torch.ones(num_classes, dtype=torch.bool) if classes is None else _mask(classes, num_classes)
    power = 1.0 - balance

    total = counts.sum(dim=0)
    # Only proportions count, so shares of the pixels do as well as their numbers.
    class_score = torch.where(total > 0, total.masked_fill(total <= 0, 1.0) ** (power - 1.0), 0.0)
    class_score = class_score / class_score.sum().clamp(min=torch.finfo(torch.float64).tiny)
    inside = (counts > 0) & chosen
    share = torch.where(inside, counts.masked_fill(~inside, 1.0) ** power, 0.0)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    image_score = (share * class_score).sum(dim=1)

    if midpoint == "median":
        held = image_score[inside.any(dim=1)]
        midpoint = float(held.median()) if len(held) else 0.0
    smoothed = 0.1 + torch.sigmoid(steepness * (image_score - midpoint))
    smoothed = smoothed.clamp(max=1.0) if clip else smoothed
    return smoothed / smoothed.sum()


def rare_class_probabilities(pixel_counts: Tensor, temperature: float = 0.01) -> Tensor:
    """DAFormer's probability of wanting each class: softmax((1 - frequency) / temperature).

    A class without any pixel has the highest probability of all: the formula asks for rarity and knows nothing of
    images. ``RareClassSampler`` leaves out what it cannot serve.

    Args:
        pixel_counts: C pixels of each class in the data set.
        temperature: small = the rarest classes only; infinite = all classes alike.

    Returns:
        C probabilities, float64, that sum to 1.

    Raises:
        ValueError: counts that are not one vector or negative, a temperature that is not positive.
    """
    counts = _counts(pixel_counts, 1)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive: got {temperature}")
    frequency = counts / counts.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return ((1.0 - frequency) / temperature).softmax(dim=0)


class Draw(NamedTuple):
    """What a training step takes at one position: an image, the seed of its augmentation, and the class it is for."""

    index: int
    seed: int
    wanted_class: int | None = None


class Sampler(Protocol):
    """Anything that knows what lies at a position of its endless sequence."""

    def draw(self, position: int) -> Draw: ...


class UniformSampler:
    """Every image once per epoch, in a new order each epoch."""

    def __init__(self, images: int, seed: int) -> None:
        """``images``: how many there are; raises SegRefineryError if none."""
        if images < 1:
            raise SegRefineryError("the data set has no images to draw from; check its path and pattern.")
        self.images, self.seed = images, seed
        self._order = lru_cache(maxsize=2)(self._permutation)

    def draw(self, position: int) -> Draw:
        epoch, place = divmod(position, self.images)
        return Draw(int(self._order(epoch)[place]), seed_of(self.seed, "view", position))

    def _permutation(self, epoch: int) -> Tensor:
        return torch.randperm(self.images, generator=generator(self.seed, "epoch", epoch))


class WeightedSampler:
    """Images drawn with replacement by their probabilities (UncerDA)."""

    def __init__(self, probabilities: Tensor, seed: int) -> None:
        """``probabilities``: N, non-negative, not all 0; they need not sum to 1."""
        self._cumulative = _cumulative(probabilities, "probabilities")
        self.seed = seed

    def draw(self, position: int) -> Draw:
        index = _pick(self._cumulative, _uniform(self.seed, "image", position))
        return Draw(index, seed_of(self.seed, "view", position))


class RareClassSampler:
    """A class by ``rare_class_probabilities``, then an image that has it (DAFormer's rare class sampling).

    Images are drawn evenly among those with more than ``min_pixels`` pixels of the class, or among all that have any
    where none has so many. Classes that occur nowhere are never wanted.
    """

    def __init__(self, pixel_counts: Tensor, seed: int, temperature: float = 0.01, min_pixels: int = 3000) -> None:
        """``pixel_counts``: N x C pixels of each class in each image; raises SegRefineryError if there are none."""
        counts = _counts(pixel_counts, 2)
        total = counts.sum(dim=0)
        self.classes = total.nonzero()[:, 0].tolist()
        if not self.classes:
            raise SegRefineryError("rare class sampling found no labelled pixel; check the masks.")
        self._cumulative = _cumulative(rare_class_probabilities(total[self.classes], temperature), "probabilities")
        self._images: dict[int, Tensor] = {}
        for wanted in self.classes:
            enough = (counts[:, wanted] > min_pixels).nonzero()[:, 0]
            self._images[wanted] = enough if len(enough) else counts[:, wanted].nonzero()[:, 0]
        self.seed = seed

    def draw(self, position: int) -> Draw:
        wanted = self.classes[_pick(self._cumulative, _uniform(self.seed, "class", position))]
        images = self._images[wanted]
        index = int(images[int(_uniform(self.seed, "image", position) * len(images))])
        return Draw(index, seed_of(self.seed, "view", position), wanted)


class ProportionalSampler:
    """Draws from several samplers in fixed proportions, exactly: of as many draws as there are shares each sampler
    makes its own, in a new order every time. Each goes through its own sequence without a gap."""

    def __init__(self, samplers: Sequence[Sampler], starts: Sequence[int], shares: Sequence[int], seed: int) -> None:
        """``starts``: what is added to the indices of each. ``shares``: how many draws each makes in a round."""
        self.samplers, self.starts, self.shares, self.seed = samplers, starts, shares, seed
        self._round = lru_cache(maxsize=2)(self._shuffled)

    def draw(self, position: int) -> Draw:
        number, place = divmod(position, sum(self.shares))
        turns = self._round(number)
        which = turns[place]
        draw = self.samplers[which].draw(number * self.shares[which] + turns[:place].count(which))
        return draw._replace(index=draw.index + self.starts[which])

    def _shuffled(self, number: int) -> list[int]:
        turns = [which for which, share in enumerate(self.shares) for _ in range(share)]
        order = torch.randperm(len(turns), generator=generator(self.seed, "round", number))
        return [turns[place] for place in order.tolist()]


def sampler_of(
    images: int, parts: Sequence[tuple[int, int | None]], seed: int, build: Callable[[slice, int], Sampler]
) -> Sampler:
    """How the images of a data set are drawn, whose parts may have shares of the draws.

    Args:
        images: in all. parts: images and share of each part; shares are stated for all or for none.
        build: a sampler of the images in a slice, from a seed; asked for all images, or for those of each part.
    """
    shares = [share for _, share in parts if share is not None]
    if not shares:
        return build(slice(0, images), seed)
    starts = [sum(count for count, _ in parts[:place]) for place in range(len(parts))]
    slices = [slice(start, start + count) for start, (count, _) in zip(starts, parts, strict=True)]
    samplers = [build(part, seed_of(seed, "part", place)) for place, part in enumerate(slices)]
    return ProportionalSampler(samplers, starts, shares, seed)


def _uniform(*key: int | str) -> float:
    """A number in [0, 1) that is a function of the key: 53 bits of its seed."""
    return (seed_of(*key) >> 10) / 2.0**53


def _cumulative(probabilities: Tensor, name: str) -> Tensor:
    weights = probabilities.double()
    if weights.ndim != 1 or not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not float(weights.sum()):
        raise ValueError(f"{name} must be one vector of finite, non-negative numbers, not all 0")
    return weights.cumsum(0) / weights.sum()


def _pick(cumulative: Tensor, place: float) -> int:
    """The index whose share of [0, 1) holds ``place``; never one of probability 0."""
    index = int(torch.searchsorted(cumulative, torch.tensor(place, dtype=cumulative.dtype), right=True))
    return index if index < len(cumulative) else int((cumulative < cumulative[-1]).sum())


def _counts(pixel_counts: Tensor, dims: int) -> Tensor:
    if pixel_counts.ndim != dims:
        raise ValueError(f"pixel_counts must be {'N x C' if dims == 2 else 'C'}: got {tuple(pixel_counts.shape)}")
    if not bool(((pixel_counts >= 0) & pixel_counts.isfinite()).all()):
        raise ValueError("pixel_counts must not be negative, infinite or NaN")
    return pixel_counts.detach().cpu().double()


def _mask(classes: Sequence[int] | Tensor, num_classes: int) -> Tensor:
    ids = torch.as_tensor(classes if isinstance(classes, Tensor) else list(classes)).cpu()
    if ids.dtype == torch.bool and ids.shape == (num_classes,):
        return ids
    ids = ids.long().flatten()
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_classes:
        raise ValueError(f"classes must lie in 0..{num_classes - 1}: got {ids.tolist()}")
    mask = torch.zeros(num_classes, dtype=torch.bool)
    mask[ids] = True
    return mask
