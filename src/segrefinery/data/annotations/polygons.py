"""Polygons and run lengths as COCO has them, by its own library: the pixels they cover, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from segrefinery.core.lazy import optional
from segrefinery.data.decoding import DataError

TOLERANCE = 0.01
"""How far outside a picture a corner may lie, as a share of its side; rounding and zooming leave some there."""
LOOKED_AT = 20_000
"""Polygons that are looked at for crossings when a data set is opened."""

Size = tuple[int, int]
Rle = dict[str, Any]


def tools() -> Any:
    """``pycocotools.mask``.

    Raises:
        SegRefineryError: it is not installed.
    """
    return optional("pycocotools.mask", "polygons need pycocotools", "coco")


def corners_of(values: Any, size: Size, file: Path, place: str, fewest: int = 3) -> np.ndarray:
    """The corners of a polygon, n x 2 pixels (x, y), checked against a picture of this height and width.

    Args:
        values: x, y, x, y, ... or pairs. file, place: for the error. fewest: corners, at least; two are those of a box.

    Raises:
        DataError: too few corners, something that is no number, or a corner far outside the picture.
    """
    try:
        corners = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DataError(file, place, "holds a polygon that is no list of x, y", "draw it anew") from error
    if len(corners) < fewest:
        shape = "polygon" if fewest > 2 else "shape"
        raise DataError(file, place, f"holds a {shape} of {len(corners)} points", f"give it {fewest} or remove it")
    if not np.isfinite(corners).all():
        raise DataError(file, place, "has a corner that is no number", "draw it anew")
    far = np.array(size[::-1]) * TOLERANCE
    outside = ((corners < -far) | (corners > np.array(size[::-1]) + far)).any(axis=1)
    if outside.any():
        x, y = corners[outside][0]
        where = f"has a corner at ({x:g}, {y:g}), outside its picture of {size[1]} x {size[0]} pixels"
        raise DataError(file, place, where, "cut it at the edge, or use the picture that was annotated")
    return corners


def polygons_rle(polygons: Sequence[Any], size: Size, file: Path, place: str) -> Rle:
    """The union of polygons as COCO's run lengths; each is checked by ``corners_of``."""
    parts = [corners_of(each, size, file, place).ravel().tolist() for each in polygons]
    return tools().merge(tools().frPyObjects(parts, *size))


def counted_rle(code: Any, size: Size, file: Path, place: str) -> Rle:
    """COCO's run lengths, counts as a list or compressed, of a picture of this height and width.

    Raises:
        DataError: they are of another size, or do not end where the picture does.
    """
    if not isinstance(code, dict) or list(code.get("size", ())) != list(size):
        stored_size = code.get("size") if isinstance(code, dict) else code
        problem = f"holds run lengths of size {stored_size}, its picture is {list(size)} (height, width)"
        raise DataError(file, place, problem, "export the annotations anew")
    counts = code.get("counts")
    try:
        if isinstance(counts, list):
            if min(counts, default=0) < 0:
                raise ValueError(f"the count {min(counts)} is below 0")
            if sum(counts) != size[0] * size[1]:
                raise ValueError(f"they count {sum(counts)} of {size[0] * size[1]} pixels")
            return tools().frPyObjects({"size": list(size), "counts": counts}, *size)
        packed = str(counts).encode()
        total = sum(_unpacked(packed))
        if total != size[0] * size[1]:  # pycocotools would fill the rest with whatever lies in memory
            raise ValueError(f"they count {total} of {size[0] * size[1]} pixels")
        return {"size": list(size), "counts": packed}
    except (TypeError, ValueError, IndexError) as error:
        problem = f"holds run lengths that cannot be read ({error})"
        raise DataError(file, place, problem, "export the annotations anew") from error


def _unpacked(code: bytes) -> list[int]:
    """The counts of compressed run lengths: five bits a character, the sixth says that more follow; from the third
    on they are differences to the last but one."""
    counts: list[int] = []
    place = 0
    while place < len(code):
        value, shift, more = 0, 0, True
        while more:
            part = code[place] - 48
            value |= (part & 31) << shift
            more, shift, place = bool(part & 32), shift + 5, place + 1
            if not more and part & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        if counts[-1] < 0:
            raise ValueError("a count is negative")
    return counts


def cover(rle: Rle) -> np.ndarray:
    """H x W bool."""
    return tools().decode(rle).astype(bool)


def remark_on_crossings(polygons: Iterable[tuple[str, Any]]) -> list[str]:
    """A sentence on the first polygons of a data set that cross themselves, given as (place, corners); or none."""
    looked = list(islice(polygons, LOOKED_AT))
    crossing = [place for place, corners in looked if crosses_itself(corners)]
    if not crossing:
        return []
    return [
        f"{len(crossing)} of the first {len(looked)} polygons cross themselves, first {crossing[0]}: where they "
        "overlap an even number of times they are holes"
    ]


def crosses_itself(corners: Any) -> bool:
    """Whether two edges of a polygon cross that do not share a corner; False of what is no polygon."""
    try:
        begin = np.asarray(corners, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        return False
    count = len(begin)
    if count < 4:
        return False
    end = np.roll(begin, -1, axis=0)
    # side[i, j]: on which side of edge i corner j lies.
    along = end - begin
    side = np.sign(along[:, None, 0] * (begin[None, :, 1] - begin[:, None, 1])
                   - along[:, None, 1] * (begin[None, :, 0] - begin[:, None, 0]))  # fmt: skip
    split = side * np.roll(side, -1, axis=1) < 0
    return bool((split & split.T).any())
