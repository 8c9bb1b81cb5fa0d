"""``cvat``: what CVAT exports as "CVAT for images 1.1": polygons, boxes and masks in one XML file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from segrefinery.core.files import read_once, readable
from segrefinery.data.annotations.painting import (
    Region,
    Size,
    class_named,
    image_folder,
    options_of,
    painted_dataset,
    require_size,
    samples_of,
    size_stated,
    space_of_regions,
)
from segrefinery.data.annotations.polygons import cover, polygons_rle, remark_on_crossings, tools
from segrefinery.data.decoding import DataError, unreadable_file
from segrefinery.data.files import FileDataset, Sample

SHAPES = ("polygon", "box", "mask")


def open_cvat(path: Path, split: str | None, reference: str) -> FileDataset:
    """``annotations.xml[@SUBSET]``: the subset is the one that CVAT gave a task; without it all images.

    The classes are the labels of the project or task, in its order and colours.

    Raises:
        DataError: the file is not CVAT's, or an image is missing.
    """
    tools()
    options = options_of(str(path), reference)
    file = options.paths[0] / "annotations.xml" if options.paths[0].is_dir() else options.paths[0]
    content = read_cvat(file)
    places = [place for place, image in enumerate(content.images) if split is None or image.get("subset") == split]
    images = [content.images[place] for place in places]
    if not images:
        subsets = ", ".join(sorted({image.get("subset") or "" for image in content.images} - {""}))
        remedy = f"choose one of: {subsets}" if subsets else "leave the split away"
        raise DataError(file, "split", f"no image is of the subset {split!r}", remedy)
    labels = [(label.findtext("name") or "", label.findtext("color") or "") for label in content.root.iter("label")]
    used = [name for image in images for shape in image for name in [shape.get("label")] if name]
    names = list(dict.fromkeys([name for name, _ in labels if name] + used))
    colors = {name: _rgb(color) for name, color in labels if re.fullmatch("#[0-9a-fA-F]{6}", color)}
    stored = [image.get("name", "") for image in images]
    folder = image_folder(file, stored, options.images)
    samples = samples_of([(name, folder / name, file) for name in stored], reference)
    by_name = {sample.name: place for sample, place in zip(samples, places, strict=True)}
    notes = remark_on_crossings(
        (f"image {image.get('id')}", shape.get("points", "").replace(";", ",").split(","))
        for image in images
        for shape in image.iter("polygon")
    )
    space = space_of_regions(file.stem, names, options.ignore_rest, colors)
    return painted_dataset(reference, samples, space, CvatRegions(by_name), options.ignore_rest, notes)


@dataclass(frozen=True)
class CvatRegions:
    """By ``z_order``, and in the order of the file where it is equal: a later region covers an earlier one."""

    places: dict[str, int]
    """Sample name -> its image's place in the file; files joined by hand have ids twice, or none."""

    def numbers(self) -> None:
        return None

    def regions(self, sample: Sample, size: Size) -> Iterator[Region]:
        file = sample.mask
        assert file is not None
        image = read_cvat(file).images[self.places[sample.name]]
        called = f"image {image.get('id', sample.name)}"
        require_size(file, sample, size_stated(image.get("height"), image.get("width"), file, called), size)
        shapes = [shape for shape in image if shape.tag != "tag"]
        try:
            shapes.sort(key=lambda shape: float(shape.get("z_order", 0)))
        except ValueError as error:
            raise DataError(file, called, "has a z_order that is no number", "export it anew") from error
        for shape in shapes:
            place = f"{called}: {shape.tag}"
            yield Region(class_named(shape.get("label"), file, place), _cover(shape, size, file, place))


class CvatFile(NamedTuple):
    """A file as it was read, and its images."""

    root: ElementTree.Element
    images: tuple[ElementTree.Element, ...]


@read_once(2)
def read_cvat(path: Path) -> CvatFile:
    """CVAT's XML, read once as long as the file stays as it is.

    Raises:
        DataError: it cannot be read, or is another's.
    """
    try:
        root = ElementTree.fromstring(readable(path).read_bytes())
    except OSError as error:
        raise unreadable_file(path, "path", error) from error
    except (ElementTree.ParseError, LookupError) as error:
        raise DataError(path, "content", f"is no XML ({error})", "export as CVAT for images 1.1") from error
    if root.tag != "annotations" or root.find("image") is None:
        what = "holds tracks of a film" if root.find("track") is not None else "is not CVAT's"
        raise DataError(path, "content", what, "export as CVAT for images 1.1")
    return CvatFile(root, tuple(root.iter("image")))


def _cover(shape: ElementTree.Element, size: Size, file: Path, place: str) -> np.ndarray:
    try:
        if shape.tag == "polygon":
            points = [float(part) for pair in shape.attrib["points"].split(";") for part in pair.split(",")]
            return cover(polygons_rle([points], size, file, place))
        if shape.tag == "box":
            if float(shape.get("rotation", 0)):
                raise DataError(file, place, "is rotated", "draw it as a polygon")
            left, top, right, bottom = (float(shape.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
            return cover(polygons_rle([[left, top, right, top, right, bottom, left, bottom]], size, file, place))
        if shape.tag == "mask":
            return _mask(shape, size)
    except (KeyError, ValueError) as error:
        raise DataError(file, place, f"cannot be read ({error})", "export it anew") from error
    raise DataError(file, place, "is no region that is read", f"use {', '.join(SHAPES)}, or remove it")


def _mask(shape: ElementTree.Element, size: Size) -> np.ndarray:
    """CVAT's run lengths: counts of pixels outside and inside in turn, row by row in the mask's box."""
    left, top, width, height = (int(shape.attrib[name]) for name in ("left", "top", "width", "height"))
    counts = [int(count) for count in shape.attrib["rle"].split(",")]
    if min(counts) < 0 or sum(counts) != width * height:
        raise ValueError(f"its run lengths count {sum(counts)} of {width * height} pixels")
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("it reaches outside its picture")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    covered = np.zeros(size, dtype=bool)
    covered[top : top + height, left : left + width] = inside.reshape(height, width)
    return covered


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
