"""Masks that come back as regions: "CVAT for images 1.1" and COCO files, painted on the images of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.annotations.coco import CocoRegions, read_coco
from segrefinery.data.annotations.cvat import CvatRegions, read_cvat
from segrefinery.data.annotations.painting import BACKGROUND, Annotations, Size
from segrefinery.data.annotations.polygons import tools
from segrefinery.data.annotations.recognize import right_name
from segrefinery.data.files import Sample
from segrefinery.labels import IGNORE, LabelSpace, key


def region_files(place: Path) -> list[tuple[str, Path]]:
    """The files of CVAT's XML and of COCO in a folder and its ``annotations``, or that file: kind and path."""
    if place.is_file():
        candidates = [place]
    else:
        folders = [place, place / "annotations"]
        candidates = [file for folder in folders for kind in ("*.xml", "*.json") for file in sorted(folder.glob(kind))]
    kinds = ((right_name(file), file) for file in candidates)
    return [(right[0], file) for right, file in kinds if right is not None and right[0] in ("cvat", "coco")]


def read_regions(kind: str, file: Path, sizes: Mapping[str, Size], space: LabelSpace) -> dict[str, Tensor]:
    """The masks of a file: stem -> H x W int64. What no region covers is ``background``, or 255 without such a class.

    Args:
        kind: ``cvat`` or ``coco``. sizes: the stems that are wanted, and each image's height and width.

    Raises:
        SegRefineryError: a region, its label or the size of an image cannot be used, or an image is there twice.
    """
    tools()
    annotations, names = _annotations(kind, file)
    masks: dict[str, Tensor] = {}
    for name in names:
        stem = PurePosixPath(name.replace("\\", "/")).stem
        if stem not in sizes:
            continue
        if stem in masks:
            raise SegRefineryError(f"{file}: {stem} is described twice; leave one of the two")
        masks[stem] = _painted(file, Sample(name, Path(name), file), annotations, sizes[stem], space)
    return masks


def _annotations(kind: str, file: Path) -> tuple[Annotations, list[str]]:
    """What a file says, and the names of its images; an image that nobody annotated is none of them."""
    if kind == "cvat":
        images = enumerate(read_cvat(file).images)
        marked = [(image.get("name", ""), at) for at, image in images if any(each.tag != "tag" for each in image)]
        return CvatRegions(dict(marked)), [name for name, _ in marked]
    content = read_coco(file)
    ids = [(str(image["file_name"]), image["id"]) for image in content.images if image["id"] in content.annotations]
    return CocoRegions(dict(ids)), [name for name, _ in ids]


def _painted(file: Path, sample: Sample, annotations: Annotations, size: Size, space: LabelSpace) -> Tensor:
    ids = {key(name): place for place, name in enumerate(space.classes)}
    label = np.full(size, ids.get(BACKGROUND, IGNORE), dtype=np.int64)
    for name, cover in _known(file, sample, annotations, size, space):
        label[cover] = ids.get(key(name), IGNORE)
    return torch.from_numpy(label)


def _known(
    file: Path, sample: Sample, annotations: Annotations, size: Size, space: LabelSpace
) -> Iterator[tuple[str, np.ndarray]]:
    known = {key(name) for name in space.classes} | {BACKGROUND}
    for name, cover in annotations.regions(sample, size):
        if name is None or key(name) not in known:
            raise SegRefineryError(
                f"{file}: {sample.name}: unknown label {name!r}; the classes are {', '.join(space.classes)}"
            )
        yield name, cover
