"""What a folder's ``dataset.yaml`` could say, where images and masks lie there and nobody has written one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from os.path import splitext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.decoding import decoded, is_grey, without_alpha
from segrefinery.data.discover import walk
from segrefinery.data.sorting import IMAGE_SUFFIXES, images_among, masks_by_look

_MOST = 2000
"""Files that are looked at."""
_MASKS = 4
"""Masks that are opened."""
_MOST_CLASSES = 64
_LAST_CHOICE = re.compile(r"instance|object|colou?r", re.IGNORECASE)
"""Of masks that number things or colour classes, beside others that number the classes."""
_INEXACT = (".jpg", ".jpeg", ".webp")
_NAMED_IDS = "classes: {ID: NAME, ...}, a name for each id"
_ALIKE = 8
"""Masks whose names begin like an image's, as those of 1.png, 10.png, 11.png do."""


class _Pattern(NamedTuple):
    """Paths ``before`` + name + ``after``."""

    before: str
    after: str

    def name_in(self, path: str) -> str | None:
        """What ``{name}`` stands for in a path; None if the path is not of the pattern."""
        inner = path.removeprefix(self.before).removesuffix(self.after)
        return inner if inner and path == self.before + inner + self.after else None

    def __str__(self) -> str:
        text = f"{self.before}{{name}}{self.after}"
        return text if re.fullmatch(r"[\w./][\w./{} -]*", text) else "'" + text.replace("'", "''") + "'"


def how_to_describe(root: Path) -> str:
    """``write ROOT/dataset.yaml with the lines ...`` to end a remedy with; empty where no image has a mask."""
    try:
        names = list(islice(walk(root), _MOST))
        by_name = set(images_among(root, names)[0])
        pictures = [name for name in names if name.lower().endswith((*IMAGE_SUFFIXES, ".gif"))]
        for masks in ({name for name in pictures if name not in by_name}, masks_by_look(root, pictures)):
            images = [name for name in pictures if name not in masks]
            if (pair := _patterns(images, masks)) is not None:
                break
        else:
            return ""
        shown = [root / name for name in sorted(masks) if pair[1].name_in(name)][:_MASKS]
        if any(mask.suffix.lower() in _INEXACT for mask in shown):
            pair = pair[0], _Pattern(pair[1].before, re.sub(r"[.]\w+$", ".png", pair[1].after))
            saved, classes = "save the masks as PNG, for JPEG and WebP change their ids; then ", _NAMED_IDS
        else:
            saved, classes = "", _classes(shown)
    except (OSError, SegRefineryError):
        return ""
    left_out = "" if saved else _left_out(pair, images, masks)
    return (
        f"{saved}write {root / 'dataset.yaml'} with the lines images: {pair[0]}, masks: {pair[1]} and {classes}, and "
        f"name the data set folder:{root}{left_out}"
    )


def _patterns(images: Sequence[str], masks: set[str]) -> tuple[_Pattern, _Pattern] | None:
    """The two patterns under which most images have a mask; None if under none half of them have."""
    if not images or not masks:
        return None

    def rank(both: tuple[_Pattern, _Pattern]) -> tuple[int, bool, int, int, int]:
        of_images, of_masks = both
        last = _LAST_CHOICE.search(of_masks.before + of_masks.after) is not None
        apart = len(_words_of(of_images.before) ^ _words_of(of_masks.before))  # train/images has train/masks, not val/
        alike = len(_common_start(of_images.before, of_masks.before))  # and train has trainannot
        length = sum(len(part) for pattern in both for part in pattern)
        return _pairs(both, images, masks), not last, -apart, alike, -length

    best = max(_candidates(images[0], masks), key=rank, default=None)
    return best if best and 2 * _pairs(best, images, masks) >= len(images) else None


def _pairs(both: tuple[_Pattern, _Pattern], images: Sequence[str], masks: set[str]) -> int:
    """How many images have a mask under two patterns."""
    of_images, of_masks = both
    called = (of_images.name_in(image) for image in images)
    return sum(name is not None and of_masks.before + name + of_masks.after in masks for name in called)


def _left_out(both: tuple[_Pattern, _Pattern], images: Sequence[str], masks: set[str]) -> str:
    """What to say of images without a mask under two patterns; empty where all have one."""
    count = _pairs(both, images, masks)
    if count == len(images):
        return ""
    told = f"so {count} of {len(images)} pictures have a mask"
    return f" ({told}; those of another folder or suffix need such a file of their own)"


def _words_of(path: str) -> set[str]:
    return set(re.split(r"[/ ._-]+", path.lower())) - {""}


def _candidates(image: str, masks: set[str]) -> Iterator[tuple[_Pattern, _Pattern]]:
    """For every folder that may be the fixed part of an image's path or of the masks': the masks whose path goes on as
    the image's for longest."""
    for before in _folders(image):
        stem, suffix = splitext(image.removeprefix(before))
        for of_masks in {folder for mask in masks for folder in _folders(mask)}:
            rests = sorted(mask.removeprefix(of_masks) for mask in masks if mask.startswith(of_masks))
            shared = [_common_start(stem, splitext(rest)[0]) for rest in rests]
            longest = max(shared, key=len)
            alike = [rest for rest, other in zip(rests, shared, strict=True) if longest and other == longest]
            name = longest.rstrip(" _.-") or longest
            for mask in alike[:_ALIKE]:
                yield _Pattern(before, stem[len(name) :] + suffix), _Pattern(of_masks, mask[len(name) :])


def _common_start(one: str, other: str) -> str:
    return one[: sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))]


def _folders(path: str) -> list[str]:
    """The folders that a path begins with, the empty one first: ``""``, ``"a/"``, ``"a/b/"``."""
    parts = path.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:count]) for count in range(len(parts) + 1)]


def _classes(masks: Sequence[Path]) -> str:
    """What to say of the classes, by what a few masks hold."""
    read = [without_alpha(decoded(mask, "mask")) for mask in masks]
    pixels = [values if transparent is None else values[~transparent][None] for values, transparent in read]
    if all(transparent is None for _, transparent in read):
        return _held(pixels)
    return f"transparent: ignore (or keep, for some pixels of these masks are transparent), {_held(pixels)}"


def _held(pixels: Sequence[np.ndarray]) -> str:
    """What to say of the ids, or else colours, in H x W or H x W x C numbers."""
    if all(map(is_grey, pixels)):
        held = {int(value) for each in pixels for value in np.unique(each)}
        ids = sorted(held - {255} if len(held) > 2 else held)  # of two, as 0 and 255, both are classes
        if len(ids) <= _MOST_CLASSES:
            return f"{_NAMED_IDS} (these masks hold {', '.join(map(str, ids))})"
        return _NAMED_IDS
    rows = [np.broadcast_to(np.atleast_3d(each), (*each.shape[:2], 3)).reshape(-1, 3) for each in pixels]
    colors = {tuple(color) for each in rows for color in np.unique(each, axis=0).tolist()}
    known = ", ".join(str(list(color)) for color in sorted(colors))
    if len(colors) <= _MOST_CLASSES:
        return f"colors: {{NAME: [R, G, B], ...}}, a name for each colour (these masks hold {known})"
    return "colors: {NAME: [R, G, B], ...}, a name for each colour"
