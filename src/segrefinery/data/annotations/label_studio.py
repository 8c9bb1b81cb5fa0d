"""What Label Studio exports: JSON and JSON-MIN, brush, polygon and rectangle regions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageDraw

from segrefinery.core.files import read_once, readable
from segrefinery.data.annotations.brush import decode_brush
from segrefinery.data.annotations.painting import (
    Region,
    class_named,
    image_folder,
    options_of,
    painted_dataset,
    samples_of,
    size_stated,
    space_of_regions,
)
from segrefinery.data.annotations.polygons import corners_of, remark_on_crossings
from segrefinery.data.decoding import DataError
from segrefinery.data.files import FileDataset, Sample
from segrefinery.data.sorting import IMAGE_SUFFIXES
from segrefinery.labels import IGNORE, LabelSpace, key

if TYPE_CHECKING:
    from torch import Tensor

LABELS = ("brushlabels", "polygonlabels", "rectanglelabels")
_NO_REGIONS = ("relation", "choices", "textarea", "rating", "number", "taxonomy", "datetime")
"""Results that say something of an image or a region and cover no pixels."""
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?P<stem>.+)")
"""Label Studio puts eight digits before the name of an uploaded file."""


def read_label_studio(path: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    """The masks of an export: file stem -> H x W int64, 255 where nothing was painted.

    Of several annotations of a task the last that was not cancelled counts. What nobody painted is the class
    ``background``, if there is one and no region of the export has it.

    Raises:
        DataError: no such export, or a region, label or size in it that cannot be used.
    """
    painted: dict[str, Sequence[Mapping[str, Any]]] = {}
    for task in _tasks(path):
        stem = _stem(task, sizes)
        if stem in sizes and (regions := _regions(path, stem, task)):
            if stem in painted:
                raise DataError(path, stem, "is in two tasks", "leave one in the export")
            painted[stem] = regions
    ids = {key(name): index for index, name in enumerate(space.classes)}
    used = {key(_label(path, stem, each)) for stem, regions in painted.items() for each in regions}
    rest = IGNORE if "background" in used else ids.get("background", IGNORE)
    return {stem: _paint(path, stem, regions, sizes[stem], space, rest) for stem, regions in painted.items()}


def open_label_studio(path: Path, split: str | None, reference: str) -> FileDataset:
    """``FILE.json``: an export as JSON or JSON-MIN, with the images beside it or in ``,images=FOLDER``.

    The classes are the labels of its regions, sorted. Tasks without an annotation are left out.

    Raises:
        DataError: an image is missing, nothing is annotated, or it is not Label Studio's.
    """
    if split is not None:
        raise DataError(reference, "split", "Label Studio has no splits", f"name the export of {split!r}")
    options = options_of(str(path), reference)
    file = options.paths[0]
    if file.is_dir():
        raise DataError(
            file, "path", "is a folder", f"write labelstudio:{next(iter(sorted(file.glob('*.json'))), 'FILE.json')}"
        )
    tasks = _tasks(file)
    by_task = [_regions(file, _address(task).stem, task) for task in tasks]
    used = [place for place, regions in enumerate(by_task) if regions]
    if not used:
        raise DataError(file, "annotations", "holds no region", "export the tasks that are annotated")
    addresses = [_address(tasks[place]) for place in used]
    for place, address in zip(used, addresses, strict=True):
        if not address.name:
            raise DataError(file, f"task {place + 1}", "names no image", "export the tasks with their data")
    names, folder = _pictures(file, addresses, options.images)
    samples = samples_of([(name, folder / name, file) for name in names], reference)
    places = {sample.name: place for sample, place in zip(samples, used, strict=True)}
    labels = sorted({_label(file, f"task {place + 1}", region) for place in used for region in by_task[place]})
    bare = len(tasks) - len(used)
    notes = [f"{bare} tasks without an annotation are left out"] if bare else []
    silent = [kind for task in tasks for each in _results(task) if (kind := each.get("type")) in _NO_REGIONS]
    if silent:
        notes.append(f"{len(silent)} results that cover no pixels are left out ({', '.join(sorted(set(silent)))})")
    notes += remark_on_crossings(
        (f"a region of {sample.name}", region["points"])
        for sample in samples
        for region in by_task[places[sample.name]]
        if region.get("points")
    )
    space = space_of_regions(file.stem, labels, options.ignore_rest)
    return painted_dataset(reference, samples, space, LabelStudioRegions(places), options.ignore_rest, notes)


@dataclass(frozen=True)
class LabelStudioRegions:
    """In the order of the file: a later region covers an earlier one."""

    places: dict[str, int]
    """Sample name -> place of its task in the export."""

    def numbers(self) -> None:
        return None

    def regions(self, sample: Sample, size: tuple[int, int]) -> Iterator[Region]:
        file = sample.mask
        assert file is not None
        task = _tasks(file)[self.places[sample.name]]
        for region in _regions(file, sample.name, task):
            yield Region(_label(file, sample.name, region), _pixels(file, sample.name, region, size))


@read_once(2)
def _tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of an export, read once as long as the file stays as it is.

    Raises:
        DataError: it cannot be read, or is not Label Studio's.
    """
    try:
        content = json.loads(readable(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, "content", f"not a Label Studio JSON export ({error})", "export it as JSON") from error
    tasks = content if isinstance(content, list) else [content]
    for number, task in enumerate(tasks, 1):
        if not isinstance(task, dict):
            raise DataError(path, f"task {number}", "is no task", "export as JSON or JSON-MIN")
    return tasks


def _address(task: Mapping[str, Any]) -> PurePosixPath:
    """Where Label Studio has the task's image: the address, or the path in the address of a local file."""
    data = task.get("data", task)
    data = data if isinstance(data, dict) else {}
    # The project's configuration chooses the key's name; "image" is the one of Label Studio's templates.
    told = [unquote(text).partition("?d=") for text in data.values() if isinstance(text, str)]
    addresses = [local or address.partition("?")[0] for address, _, local in told]
    picture = next((address for address in addresses if address.lower().endswith(IMAGE_SUFFIXES)), "")
    first, _, local = unquote(str(data.get("image") or "")).partition("?d=")
    return PurePosixPath(local or first.partition("?")[0] or picture)


def _pictures(file: Path, addresses: Sequence[PurePosixPath], given: Path | None) -> tuple[list[str], Path]:
    """The images' names and their folder: by the path of a local file, by name, or as they were before the upload."""
    names = [address.name for address in addresses]
    plain = [hit["stem"] if (hit := _UPLOADED.fullmatch(name)) else name for name in names]
    for tried in ([str(address).lstrip("/") for address in addresses], names):
        with suppress(DataError):
            return tried, image_folder(file, tried, given)
    return plain, image_folder(file, plain, given)


def _stem(task: Mapping[str, Any], sizes: Mapping[str, Any]) -> str:
    """The stem of the task's image, of its tag or its address."""
    data = task.get("data", task)
    data = data if isinstance(data, dict) else {}
    stem = str(data.get("stem") or Path(unquote(str(data.get("image", "")))).stem)
    uploaded = _UPLOADED.fullmatch(stem)
    return uploaded["stem"] if uploaded and stem not in sizes else stem


def _results(task: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What the annotation says that counts; nothing where the export is JSON-MIN."""
    valid = [each for each in task.get("annotations", ()) if not each.get("was_cancelled")]
    return valid[-1].get("result", []) if valid else []


def _regions(path: Path, stem: str, task: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The regions of the annotation that counts, each with its value's keys beside its own."""
    if "annotations" in task:
        told = [each for each in _results(task) if each.get("type") not in _NO_REGIONS]
        regions = [{**each, **(each.get("value") or {})} for each in told]
    elif "predictions" in task:
        regions = []
    else:
        lists = [value for value in task.values() if isinstance(value, list)]
        regions = [{**each} for value in lists for each in value if isinstance(each, dict)]
    for each in regions:
        if not any(each.get(kind) for kind in LABELS):
            what = each.get("type") or ", ".join(map(str, each))
            if f"{what.removesuffix('labels')}labels" in LABELS:
                raise DataError(path, stem, f"a region ({what}) has no label", "give it one, or delete it")
            raise DataError(path, stem, f"a region is {what}", f"only {', '.join(LABELS)} can be read")
    return regions


def _label(path: Path, stem: str, region: Mapping[str, Any]) -> str:
    names = next(region[kind] for kind in LABELS if region.get(kind))
    if len(names) != 1:
        raise DataError(path, stem, f"a region has the labels {', '.join(map(str, names))}", "give it one")
    return class_named(names[0], path, f"{stem}: a region")


def _paint(
    path: Path, stem: str, regions: Sequence[Mapping[str, Any]], size: tuple[int, int], space: LabelSpace, rest: int
) -> Tensor:
    import torch

    mask = np.full(size, rest, dtype=np.int64)
    ids = {key(name): index for index, name in enumerate(space.classes)}
    for region in regions:
        covered, name = _pixels(path, stem, region, size), _label(path, stem, region)
        if key(name) not in ids:
            raise DataError(path, stem, f"unknown label {name!r}", f"classes: {', '.join(space.classes)}")
        mask[covered] = ids[key(name)]
    return torch.from_numpy(mask)


def _pixels(path: Path, stem: str, region: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """H x W bool: the pixels of a region, checked against its picture."""
    at = size_stated(region.get("original_height"), region.get("original_width"), path, f"{stem}: original_height")
    if at != tuple(size):
        labelled = "an unknown size" if at is None else f"{at[1]} x {at[0]}"
        problem = f"was labelled at {labelled}, it is {size[1]} x {size[0]}"
        raise DataError(path, stem, problem, "use the image that was labelled, or export the labels at its size")
    place = f"{stem}: a region of {_label(path, stem, region)!r}"
    if region.get("image_rotation") or region.get("rotation"):
        raise DataError(path, place, "is rotated", "draw it as a polygon")
    try:
        return _covered(region, size, path, place)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(path, place, f"cannot be read ({error})", "draw it anew") from error


def _covered(region: Mapping[str, Any], size: tuple[int, int], path: Path, place: str) -> np.ndarray:
    """H x W bool: the pixels of a region, whose corners are in percent of the image."""
    if "rle" in region:
        return decode_brush(region["rle"], *size)
    if "points" in region:
        corners = [(float(x), float(y)) for x, y in region["points"]]
    else:
        left, top, width, height = (float(region[name]) for name in ("x", "y", "width", "height"))
        corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    within = corners_of([(x / 100 * size[1], y / 100 * size[0]) for x, y in corners], size, path, place)
    # A pixel belongs to a region that holds its centre; drawn on a raster four times as fine.
    fine = 4
    picture = Image.new("1", (size[1] * fine, size[0] * fine))
    pixels = [(x * fine - 0.5, y * fine - 0.5) for x, y in within.tolist()]
    ImageDraw.Draw(picture).polygon(pixels, fill=1)
    return np.array(picture)[fine // 2 :: fine, fine // 2 :: fine]
