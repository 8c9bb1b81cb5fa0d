"""Labelled target images that teach: none of them is scored on, and some may be held out to score with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.data.datasets import Chosen, ImageDataset, SegmentationDataset, files_of
from segrefinery.data.decoding import DataError
from segrefinery.data.scan import Progress, pixel_digests

FEWEST = 2
"""Images held out, at least: of one there is no interval."""


def shared_images(labels: ImageDataset, other: ImageDataset, progress: Progress | None = None) -> list[tuple[int, int]]:
    """The images of ``labels`` that ``other`` shows too, pixel for pixel: the place of each in both."""
    places = {digest: place for place, digest in enumerate(pixel_digests(other, progress))}
    return [(place, places[digest]) for place, digest in enumerate(pixel_digests(labels)) if digest in places]


def refuse_scored(labels: ImageDataset, evaluation: ImageDataset, progress: Progress | None = None) -> None:
    """Refuse labels that teach on images that score.

    Raises:
        DataError: names the first image, and its other place.
    """
    shared = shared_images(labels, evaluation, progress)
    if shared:
        labelled, scored = (_said(side, place) for side, place in zip((labels, evaluation), shared[0], strict=True))
        raise DataError(
            labelled,
            "labels",
            f"is also in the evaluation set, pixel for pixel ({scored}), as {len(shared)} of the {len(labels)} "
            "labelled images are: a model would be scored on what it was taught",
            "leave these images out of --labels or out of --eval",
        )


def hold_out(labels: SegmentationDataset, share: float, seed: int) -> tuple[SegmentationDataset, Chosen | None]:
    """Part labels into those that teach and those that score, by the seed; equal pictures stay on one side.

    Args:
        share: of the images that is held out; 0 holds out none.

    Raises:
        SegRefineryError: fewer than two would be held out, or none is left to teach.
    """
    if not share:
        return labels, None
    digests = pixel_digests(labels)
    pictures = list(dict.fromkeys(digests))
    count = round(share * len(pictures))
    if count < FEWEST or count == len(pictures):
        raise SegRefineryError(
            f"training.holdout: {share:g} of {len(pictures)} labelled images are {count}; hold out {FEWEST} or more "
            "and leave one to teach, or set training.holdout to 0, where nothing is estimated"
        )
    order = torch.randperm(len(pictures), generator=generator(seed, "holdout"))[:count].tolist()
    kept = {pictures[place] for place in order}
    sides = _places(digests, kept, False), _places(digests, kept, True)
    return Chosen(labels, sides[0]), Chosen(labels, sides[1])


def parts_in_turn(labels: SegmentationDataset, parts: int, seed: int) -> list[tuple[Chosen, Chosen]]:
    """Labels parted by the seed into so many parts of about one size -> for each, the others and itself; equal pictures
    are in one part.

    Raises:
        SegRefineryError: there are fewer pictures than parts.
    """
    digests = pixel_digests(labels)
    pictures = list(dict.fromkeys(digests))
    if len(pictures) < parts:
        raise SegRefineryError(
            f"training.cross_fit: {parts} parts of {len(pictures)} labelled images; set {len(pictures)} or fewer"
        )
    order = torch.randperm(len(pictures), generator=generator(seed, "cross_fit")).tolist()
    held = [{pictures[place] for place in order[part::parts]} for part in range(parts)]
    return [(Chosen(labels, _places(digests, one, False)), Chosen(labels, _places(digests, one, True))) for one in held]


def _places(digests: Sequence[str], kept: set[str], inside: bool) -> list[int]:
    return [place for place, digest in enumerate(digests) if (digest in kept) is inside]


def _said(dataset: ImageDataset, place: int) -> str:
    files = files_of(dataset, place)
    return str(files[0]) if files else f"{dataset.reference} {dataset.name(place)}"
