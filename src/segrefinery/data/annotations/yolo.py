"""``yolo``: a folder with ``data.yaml`` and a text file of outlines an image, as Ultralytics' segmentation has them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segrefinery.core.files import readable
from segrefinery.core.yaml import parse_yaml
from segrefinery.data.annotations.painting import (
    Region,
    Size,
    class_named,
    options_of,
    painted_dataset,
    samples_of,
    space_of_regions,
)
from segrefinery.data.annotations.polygons import cover, polygons_rle, remark_on_crossings, tools
from segrefinery.data.decoding import DataError, unreadable_file
from segrefinery.data.discover import walk
from segrefinery.data.files import FileDataset, Sample
from segrefinery.data.sorting import pictures_among
from segrefinery.labels import key

SPLITS = ("train", "val", "test")


def open_yolo(path: Path, split: str | None, reference: str) -> FileDataset:
    """``FOLDER[@SPLIT]`` with its ``data.yaml``, or that file; the split is ``train`` if none is named.

    A split names a folder, a text file of image paths, or several of these. Labels lie where the last ``images`` of a
    path is ``labels``. An image without a text file has no region: it is all background, as Ultralytics has it.

    Raises:
        DataError: there is no such file or split, or no image in it.
    """
    tools()
    options = options_of(str(path), reference)
    file = options.paths[0] / "data.yaml" if options.paths[0].is_dir() else options.paths[0]
    content = _load(file)
    names = content["names"]
    split = split or "train"
    if not content.get(split):
        choices = ", ".join(name for name in SPLITS if content.get(name))
        raise DataError(file, "split", f"there is no split {split!r}", f"choose one of: {choices}")
    images = _images(file, content, split)
    labels = [_label_file(image) for image in images]
    if not any(label.is_file() for label in labels):
        raise DataError(file, split, f"no label file such as {labels[0]} exists", "complete the labels")
    bare = sum(not label.is_file() for label in labels)
    notes = [f"{bare} images have no label file and are all background"] if bare else []
    notes += remark_on_crossings(_corners_in(labels))
    root = file.parent.resolve()
    named = [
        # An image without labels is described by data.yaml alone.
        (_short(image, root), image, label if label.is_file() else file)
        for image, label in zip(images, labels, strict=True)
    ]
    space = space_of_regions(root.name, list(names.values()), options.ignore_rest)
    samples = samples_of(named, reference)
    return painted_dataset(reference, samples, space, YoloRegions(names), options.ignore_rest, notes)


@dataclass(frozen=True)
class YoloRegions:
    """The larger regions first, as Ultralytics paints them: what is small lies on top."""

    names: dict[int, str]

    def numbers(self) -> dict[str, int]:
        return {key(name): id for id, name in self.names.items()}

    def regions(self, sample: Sample, size: Size) -> Iterator[Region]:
        file = sample.mask
        assert file is not None
        coded = [] if file.suffix in (".yaml", ".yml") else list(_outlines(file, self.names, size))
        area = tools().area([rle for _, rle in coded]) if coded else []
        for place in sorted(range(len(coded)), key=lambda i: -int(area[i])):
            name, rle = coded[place]
            yield Region(name, cover(rle))


def _outlines(file: Path, names: dict[int, str], size: Size) -> Iterator[tuple[str, Any]]:
    """Class and run lengths of each line ``CLASS x y x y ...``, in shares of the picture's sides."""
    try:
        lines = readable(file).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_file(file, "labels", error) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            first, *values = (float(word) for word in line.split())
        except ValueError as error:
            raise DataError(file, place, f"{line[:40]!r} is no list of numbers", "write CLASS x y x y ...") from error
        if first not in names:
            choices = f"the classes are 0 to {max(names)}"
            raise DataError(file, place, f"names class {first:g}, which data.yaml does not", choices)
        if len(values) == 4:
            raise DataError(file, place, "is a box, not an outline", "export YOLO segmentation, not detection")
        if len(values) % 2:
            raise DataError(file, place, "has an x without its y", "export it anew")
        corners = np.array(values).reshape(-1, 2) * np.array(size[::-1])
        yield names[int(first)], polygons_rle([corners], size, file, place)


def _corners_in(files: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """Place and corners of each outline, as they stand there; who paints them says what is wrong with them."""
    for file in files:
        try:
            lines = readable(file).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        yield from ((f"{file.name}: line {number}", line.split()[1:]) for number, line in enumerate(lines, 1))


def _load(file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(readable(file).read_text("utf-8"), booleans=False)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_file(file, "data.yaml", error) from error
    except yaml.YAMLError as error:
        raise DataError(file, "data.yaml", f"is no YAML: {' '.join(str(error).split())}", "correct it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(id, int) for id in names):
        raise DataError(file, "names", "is no list of class names", "write names: {0: road, 1: car}")
    if content.get("nc", len(names)) != len(names):
        raise DataError(file, "nc", f"is {content['nc']}, and there are {len(names)} names", "correct one of them")
    return {**content, "names": {id: class_named(name, file, f"names: {id}") for id, name in names.items()}}


def _images(file: Path, content: dict[str, Any], split: str) -> list[Path]:
    given = content[split]
    images: list[Path] = []
    for each in given if isinstance(given, list) else [given]:
        place = _place(file, content.get("path"), str(each))
        if place is None:
            raise DataError(file, split, f"{each!r} does not exist", "correct it; it is relative to path or data.yaml")
        if place.is_dir():
            images += [place / name for name in pictures_among(list(walk(place)))]
        else:
            lines = [line.strip() for line in readable(place).read_text("utf-8-sig").splitlines() if line.strip()]
            images += [place.parent / line for line in lines]
    if not images:
        raise DataError(file, split, "holds no image", "correct the path")
    return list(dict.fromkeys(images))


def _place(file: Path, root: object, given: str) -> Path | None:
    """Where a split lies: below ``path``, below the file's folder, or there without Roboflow's needless ``../``."""
    bases = [file.parent / str(root)] if root else []
    tried = [base / given for base in [*bases, file.parent]] + [file.parent / given.removeprefix("../")]
    return next((place for place in tried if place.exists()), None)


def _label_file(image: Path) -> Path:
    """``.../labels/x.txt`` of ``.../images/x.jpg``; the file beside it where no folder is called images."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _short(image: Path, root: Path) -> str:
    real = Path(os.path.realpath(image))
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else image.name
