"""``coco``: annotation files in COCO's form, polygons and both kinds of run lengths."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefinery.core.files import read_json, read_once
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
from segrefinery.data.annotations.polygons import counted_rle, cover, polygons_rle, remark_on_crossings, tools
from segrefinery.data.decoding import DataError
from segrefinery.data.files import FileDataset, Sample
from segrefinery.labels import key


def open_coco(path: Path, split: str | None, reference: str) -> FileDataset:
    """``FILE.json``, several by commas or a glob, or a folder with a split; see ``options_of`` for what may follow.

    The split of a folder is the file ``annotations/instances_SPLIT*.json`` or ``SPLIT/_annotations.coco.json``. The
    classes are the categories, joined by name, in the order of the files. Images without an annotation are all
    background; files without any annotation make a data set without labels.

    Raises:
        DataError: a file is not COCO's, a picture is missing, or the split does not exist.
    """
    tools()
    options = options_of(str(path), reference)
    files = [read_coco(file) for file in _files(options.paths, split, reference)]
    named, notes = [], []
    for file in files:
        names = [str(image["file_name"]) for image in file.images]
        folder = image_folder(file.path, names, options.images)
        named += [(name, folder / name, file.path) for name in names]
        notes += file.notes
    samples = samples_of(named, reference)
    if not any(file.annotations for file in files):
        return FileDataset(reference, [Sample(sample.name, sample.image) for sample in samples], notes=notes)
    images = [image["id"] for file in files for image in file.images]
    ids = {sample.name: image for sample, image in zip(samples, images, strict=True)}
    classes: dict[str, str] = {}
    for name in (name for file in files for name in file.categories.values()):
        classes.setdefault(key(name), name)
    space = space_of_regions(files[0].path.stem, list(classes.values()), options.ignore_rest)
    if bare := sum(image not in file.annotations for file in files for image in (each["id"] for each in file.images)):
        notes.append(
            f"{bare} images have no annotation and are all {'ignored' if options.ignore_rest else 'background'}"
        )
    notes += remark_on_crossings(each for file in files for each in file.polygons())
    return painted_dataset(reference, samples, space, CocoRegions(ids, _numbers(files)), options.ignore_rest, notes)


@dataclass(frozen=True)
class CocoRegions:
    """Crowds first, then the larger regions before the smaller: COCO knows no order, and what is small lies on top."""

    ids: dict[str, Any]
    """Sample name -> image id."""
    categories: dict[str, int] | None = None
    """Key of a category's name -> its id, where all files agree on whole numbers."""

    def numbers(self) -> dict[str, int] | None:
        return self.categories

    def regions(self, sample: Sample, size: Size) -> Iterator[Region]:
        assert sample.mask is not None
        file = read_coco(sample.mask)
        image = self.ids[sample.name]
        require_size(sample.mask, sample, file.sizes.get(image), size)
        coded = [(each, _rle(each, size, sample.mask)) for each in file.annotations.get(image, ())]
        area = tools().area([rle for _, rle in coded]) if coded else []
        order = sorted(range(len(coded)), key=lambda i: (not coded[i][0].get("iscrowd"), -int(area[i])))
        for place in order:
            annotation, rle = coded[place]
            yield Region(file.categories[annotation["category_id"]], cover(rle))


@dataclass(frozen=True)
class CocoFile:
    """A file as it was read: ``annotations`` by image id, ``sizes`` (height, width), None where it states none."""

    path: Path
    images: list[dict[str, Any]]
    categories: dict[Any, str]
    annotations: dict[Any, list[dict[str, Any]]]
    sizes: dict[Any, Size | None]
    notes: list[str]

    def polygons(self) -> Iterator[tuple[str, Any]]:
        for those in self.annotations.values():
            for each in those:
                parts = each.get("segmentation")
                yield from ((_place(each), part) for part in (parts if isinstance(parts, list) else ()))


@read_once(8)
def read_coco(path: Path) -> CocoFile:
    """A COCO file, read once as long as it stays as it is.

    Raises:
        SegRefineryError: it cannot be read, or is not COCO's.
    """
    content = read_json(path, "check the path, or export it anew")
    lists = {}
    for name in ("images", "categories", "annotations"):
        entries = content.get(name, []) if isinstance(content, dict) else None
        if name == "images" and entries == []:
            raise DataError(path, name, "lists no image", "export the images of its annotations too")
        if not isinstance(entries, list):
            raise DataError(path, name, "is no list of COCO's", "export as COCO (images, categories, annotations)")
        lists[name] = entries
    if lists["annotations"] and "segments_info" in lists["annotations"][0]:
        raise DataError(path, "annotations", "are panoptic: their masks are PNGs", "name those PNGs in a dataset.yaml")
    try:
        categories = _by_id(lists["categories"], "name", "category", path)
        categories = {id: class_named(name, path, f"category {id}") for id, name in categories.items()}
        known = _by_id(lists["images"], "file_name", "image", path)
        sized = ((each, f"image {each['id']}") for each in lists["images"])
        sizes = {each["id"]: size_stated(each.get("height"), each.get("width"), path, place) for each, place in sized}
        by_image = defaultdict(list)
        for each in lists["annotations"]:
            if each["category_id"] not in categories:
                problem = f"names category {each['category_id']}, which is not declared"
                raise DataError(path, _place(each), problem, "declare it under categories")
            by_image[each["image_id"]].append(each)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"lacks a key or has a value of another kind ({type(error).__name__}: {error})"
        raise DataError(path, "content", what, "export as COCO anew") from error
    return CocoFile(path, lists["images"], categories, dict(by_image), sizes, _notes(by_image, known, categories, path))


def _notes(by_image: dict[Any, list], known: Collection[Any], categories: dict[Any, str], path: Path) -> list[str]:
    used = {key(categories[each["category_id"]]) for annotations in by_image.values() for each in annotations}
    empty = [name for name in dict.fromkeys(categories.values()) if key(name) not in used]
    notes = [f"{path.name}: no region is of the class {', '.join(empty)}"] if empty and used else []
    stray = sum(len(annotations) for image, annotations in by_image.items() if image not in known)
    return notes + ([f"{path.name}: {stray} annotations of images that it does not list are left out"] if stray else [])


def _by_id(entries: list[dict[str, Any]], value: str, what: str, path: Path) -> dict[Any, Any]:
    """Id -> a value of each entry.

    Raises:
        DataError: two entries of one id differ, so that nobody can say which an annotation means.
    """
    values: dict[Any, Any] = {}
    for each in entries:
        other = values.setdefault(each["id"], each[value])
        if other != each[value]:
            problem = f"is the id of two, {other!r} and {each[value]!r}"
            raise DataError(path, f"{what} {each['id']}", problem, "give each its own, and its annotations too")
    return values


def _numbers(files: list[CocoFile]) -> dict[str, int] | None:
    pairs = {(key(name), id) for file in files for id, name in file.categories.items()}
    whole = all(isinstance(id, int) and id >= 0 for _, id in pairs)
    return dict(pairs) if whole and len(dict(pairs)) == len(pairs) else None


def _rle(annotation: dict[str, Any], size: Size, file: Path) -> Any:
    segmentation, place = annotation.get("segmentation"), _place(annotation)
    if isinstance(segmentation, dict):
        return counted_rle(segmentation, size, file, place)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(file, place, "has no segmentation, only a box or points", "annotate its outline or remove it")
    return polygons_rle(segmentation, size, file, place)


def _place(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', '?')}"


def _files(paths: tuple[Path, ...], split: str | None, reference: str) -> list[Path]:
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        if split is None:
            splits = [file.relative_to(folder).as_posix() for file in _split_files(folder, "*")]
            remedy = f"write coco:{folder}/{splits[0]}" if splits else f"write coco:{folder}/FILE.json"
            raise DataError(folder, "path", "is a folder", f"{remedy}, or name a split of it")
        of_split = _split_files(folder, split)
        if not of_split:
            problem = f"holds neither annotations/instances_{split}*.json nor {split}/_annotations.coco.json"
            raise DataError(folder, "split", problem, "write coco:FILE.json")
        return of_split
    if split is not None:
        raise DataError(reference, "split", "a COCO file has no splits", f"name the file of {split!r}")
    files = []
    for path in paths:
        hits = [Path(hit) for hit in sorted(glob.glob(str(path), recursive=True))] or [path]
        files += [hit for hit in hits if hit not in files]
    return files


def _split_files(folder: Path, split: str) -> list[Path]:
    plain = sorted(folder.glob(f"annotations/instances_{split}.json"))
    whole = plain or sorted(folder.glob(f"annotations/instances_{split.rstrip('*')}*.json"))
    return whole or sorted(folder.glob(f"{split}/_annotations.coco.json"))
