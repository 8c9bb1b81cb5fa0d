"""``labelme``: a folder of images with a JSON file of labelme's beside each; painted as labelme paints them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segrefinery.core.files import read_json
from segrefinery.data.annotations.painting import (
    Region,
    Size,
    class_named,
    options_of,
    painted_dataset,
    require_size,
    samples_of,
    size_stated,
    space_of_regions,
)
from segrefinery.data.annotations.polygons import corners_of, remark_on_crossings
from segrefinery.data.decoding import DataError, decoded
from segrefinery.data.discover import require_folder, walk
from segrefinery.data.files import FileDataset, Sample
from segrefinery.data.sorting import pictures_among

LABELS = "labels.txt"
IGNORED = "__ignore__"
"""labelme's name of what is not to be learned."""


def open_labelme(path: Path, split: str | None, reference: str) -> FileDataset:
    """``FOLDER``, its subfolders included; ``,images=FOLDER`` where the images lie elsewhere.

    The classes are the lines of ``labels.txt`` in the folder, in its order; without it every file is read for its
    labels, and they are sorted. ``__ignore__`` is ignored, ``_background_`` is background.

    Raises:
        DataError: there is no file of labelme's, or the image of one is missing.
    """
    if split is not None:
        raise DataError(reference, "split", "labelme has no splits", f"name the subfolder of {split!r}")
    options = options_of(str(path), reference)
    root = options.paths[0]
    require_folder(root)
    files = [name for name in walk(root) if name.endswith(".json")]
    if not files:
        raise DataError(root, "path", "holds no JSON file of labelme's", "name the folder that labelme wrote to")
    labels = root / LABELS
    contents = ((root / name, read_labelme(root / name)) for name in files)
    polygons: list[tuple[str, Any]] = []
    shape_labels: set[str] = set()
    samples = []
    for file, content in contents:
        stored = PureWindowsPath(str(content["imagePath"])).as_posix()  # one that Windows wrote has backslashes
        image = (options.images or file.parent) / stored
        if not image.is_file():
            problem, remedy = f"{stored!r} is not in {image.parent}", "put it there, or name ,images=FOLDER"
            raise DataError(file, "imagePath", problem, remedy)
        samples.append((file.relative_to(root).with_suffix(image.suffix).as_posix(), image, file))
        shape_labels |= {_label(shape, file, number) for number, shape in enumerate(content["shapes"], 1)}
        polygons += [
            (f"{file.name}: shape {number}", shape.get("points"))
            for number, shape in enumerate(content["shapes"], 1)
            if shape.get("shape_type", "polygon") == "polygon"
        ]
    names = labels.read_text("utf-8-sig").splitlines() if labels.is_file() else sorted(shape_labels)
    names = [name.strip() for name in names if name.strip() and name.strip() != IGNORED]
    alone = len(set(pictures_among(list(walk(root))))) - len(samples) if options.images is None else 0
    notes = [f"{alone} images have no JSON file and are left out"] if alone > 0 else []
    space = space_of_regions(root.resolve().name, names, options.ignore_rest)
    chosen = samples_of(samples, reference)
    notes += remark_on_crossings(polygons)
    return painted_dataset(reference, chosen, space, LabelmeRegions(), options.ignore_rest, notes)


def read_labelme(path: Path) -> dict[str, Any]:
    """The content of a file of labelme's.

    Raises:
        SegRefineryError: it cannot be read, or is another's.
    """
    content = read_json(path, "repair or remove it")
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not isinstance(content.get("imagePath"), str):
        raise DataError(path, "content", "is not labelme's: it lacks shapes or imagePath", "remove it from the folder")
    if odd := [number for number, shape in enumerate(shapes, 1) if not isinstance(shape, dict)]:
        raise DataError(path, f"shape {odd[0]}", "is no shape of labelme's", "remove it, or export the file anew")
    return content


@dataclass(frozen=True)
class LabelmeRegions:
    """In the order of the file: a later shape covers an earlier one."""

    def numbers(self) -> None:
        return None

    def regions(self, sample: Sample, size: Size) -> Iterator[Region]:
        assert sample.mask is not None
        content = read_labelme(sample.mask)
        height, width = content.get("imageHeight"), content.get("imageWidth")
        require_size(sample.mask, sample, size_stated(height, width, sample.mask, "imageHeight"), size)
        for number, shape in enumerate(content["shapes"], 1):
            name = _label(shape, sample.mask, number)
            yield Region(None if name == IGNORED else name, _cover(shape, size, sample.mask, f"shape {number}"))


def _label(shape: dict[str, Any], file: Path, number: int) -> str:
    return class_named(shape.get("label"), file, f"shape {number}")


def _cover(shape: dict[str, Any], size: Size, file: Path, place: str) -> np.ndarray:
    """H x W bool: the pixels that labelme itself paints."""
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    picture = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(picture)
    if kind in ("polygon", "oriented_rectangle"):
        corners = corners_of(points, size, file, place)
        draw.polygon([(x, y) for x, y in corners.tolist()], fill=1, outline=1)
        return np.array(picture)
    if kind not in ("circle", "rectangle", "mask"):
        raise DataError(file, place, f"is a {kind}, which covers no area", "draw a polygon, or remove it")
    try:
        (left, top), (right, bottom) = corners_of(points or (), size, file, place, fewest=2).tolist()
        if kind == "circle":
            reach = float(np.hypot(right - left, bottom - top))
            draw.ellipse([left - reach, top - reach, left + reach, top + reach], fill=1, outline=1)
            return np.array(picture)
        left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        if kind == "rectangle":
            draw.rectangle([left, top, right, bottom], fill=1, outline=1)
            return np.array(picture)
        covered = np.zeros(size, dtype=bool)
        patch = decoded(file, "mask", data=base64.b64decode(shape["mask"]))
        covered[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = patch > 0
        return covered
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(file, place, f"is a {kind} that cannot be read ({error})", "draw it anew") from error
