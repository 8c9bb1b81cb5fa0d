"""Several data sets as one: their images one after the other, their classes matched by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segrefinery.data.datasets import (
    Part,
    SegmentationDataset,
    bands_of,
    bare_of,
    content_key,
    files_of,
    notes_of,
    picture_of,
)
from segrefinery.data.decoding import DataError
from segrefinery.data.settings import BETWEEN
from segrefinery.data.strips import Picture
from segrefinery.labels import IGNORE, LabelSpace, apply_table, lookup_table, match, united_space

if TYPE_CHECKING:
    from torch import Tensor

SHARE = re.compile(r"(\d+) of (?=\S)")
NO_SHARE = re.compile(r"[-+]?\d[\d.,/]* ?%? ?of (?=\S)")
"""What is meant for a share and is none: ``0.5 of PATH``, ``50% of PATH``, ``2of PATH``."""
MOST_SHARES = 999


def parts_named(reference: str) -> list[tuple[str, int | None]]:
    """The data sets of ``2 of A + 1 of B``, each with its share of the draws; without one where none is stated.

    Raises:
        DataError: a share is no whole number from 1 to 999, or a name is empty.
    """
    if Path(reference).expanduser().exists():
        return [(reference, None)]
    parts: list[tuple[str, int | None]] = []
    for text in reference.split(BETWEEN):
        hit, remedy = SHARE.match(text.strip()), f"write 1 to {MOST_SHARES}, as in: 2 of PATH"
        share = int(hit[1]) if hit else None
        if not text.strip():
            raise DataError(reference, "reference", "has an empty name", "write NAME:PATH[@SPLIT] on both sides of +")
        if hit is None and (odd := NO_SHARE.match(text.strip())) and not Path(text.strip()).exists():
            raise DataError(text, "reference", f"has a share that is no whole number ({odd[0].strip()})", remedy)
        if share is not None and not 1 <= share <= MOST_SHARES:
            raise DataError(text, "reference", f"has a share of {share}", remedy)
        parts.append((text.strip()[hit.end() if hit else 0 :], share))
    if any(share for _, share in parts):
        return [(name, share or 1) for name, share in parts]
    return parts


class Joined:
    """Data sets one after the other. Its space has all classes of its parts, by name; a part's labels are ids of it.

    An image keeps its name where no other has it, else the number of its part stands in front (``2/0001``).

    Attributes:
        parts: which they are, how many images each has, and its share of the draws.
    """

    def __init__(self, reference: str, sets: Sequence[SegmentationDataset], shares: Sequence[int | None]) -> None:
        self.reference, self.sets = reference, tuple(sets)
        self.has_labels = all(one.has_labels for one in sets)
        self.space = united_space([one.space for one in sets if one.space is not None])
        self.parts = tuple(
            Part(one.reference, len(one), share, _shared_classes(self.space, one.space))
            for one, share in zip(sets, shares, strict=True)
        )
        self.bands = bands_of(sets[0])
        self.bare = tuple(sample for one in sets for sample in bare_of(one))
        for one in sets:
            if bands_of(one) != self.bands:
                raise DataError(
                    one.reference,
                    "bands",
                    f"its images have {bands_of(one)} bands, those of {sets[0].reference} {self.bands}",
                    "name as many bands in each dataset.yaml",
                )
        self.notes = tuple(_notes(self.sets))
        self._tables = [_table(one.space, self.space) for one in sets]
        self._places = [(part, index) for part, one in enumerate(sets) for index in range(len(one))]
        self._shared = _repeated(one.name(index) for one in sets for index in range(len(one)))

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        part, place = self._places[index]
        name = self.sets[part].name(place)
        return f"{part + 1}/{name}" if name in self._shared else name

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        part, place = self._places[index]
        return self.sets[part].image(place)

    def picture(self, index: int) -> Picture:
        """The image, from which rows can be had."""
        part, place = self._places[index]
        return picture_of(self.sets[part], place)

    def label(self, index: int) -> Tensor:
        """int64, H x W, ids of ``space``, 255 where ignored."""
        part, place = self._places[index]
        label, table = self.sets[part].label(place), self._tables[part]
        return label if table is None else apply_table(label, table)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image file and, if there is one, the mask file."""
        part, place = self._places[index]
        return files_of(self.sets[part], place)

    def content_key(self) -> Iterator[str]:
        """Lines that change whenever a part, its share or the classes do."""
        yield f"joined {self.space} {[(part.images, part.share) for part in self.parts]}"
        for one in self.sets:
            yield from content_key(one)


def _table(part_space: LabelSpace | None, space: LabelSpace | None) -> Tensor | None:
    """The ids of a part's classes in the united space; None where they are the same."""
    if part_space is None or space is None or part_space.classes == space.classes:
        return None
    return lookup_table({**dict(enumerate(part_space.classes)), IGNORE: None}, space)


def _shared_classes(space: LabelSpace | None, part_space: LabelSpace | None) -> tuple[str, ...]:
    """The classes of the united space that a part has too."""
    if space is None or part_space is None:
        return ()
    reached = {match(name, space.classes) for name in part_space.classes}
    return tuple(name for place, name in enumerate(space.classes) if place in reached)


def _repeated(names: Iterator[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def _notes(sets: Sequence[SegmentationDataset]) -> list[str]:
    return [f"{one.reference}: {note}" for one in sets for note in notes_of(one)]
