"""Masks that are painted from regions: once for each picture, and kept as PNG in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import cache_folder
from segrefinery.data.decoding import DataError, image_size, read_ids, unreadable_file
from segrefinery.data.files import FileDataset, Sample
from segrefinery.data.label_files import palette_image, save_png
from segrefinery.labels import IGNORE, LabelSpace, key

if TYPE_CHECKING:
    from torch import Tensor

_VERSION = 2
"""Of the rules of painting: a mask that was painted by others is painted anew."""

Size = tuple[int, int]
BACKGROUND = "background"


class Region(NamedTuple):
    """The pixels of one annotated region, H x W bool, and its class; None where it is to be ignored."""

    name: str | None
    cover: np.ndarray


class Annotations(Protocol):
    """What a format knows of the pictures of a data set; small enough to be sent to loading processes."""

    def regions(self, sample: Sample, size: Size) -> Iterator[Region]:
        """The regions of a picture of this height and width, in the order of painting: later ones cover earlier ones.

        Raises:
            DataError: names the annotation that cannot be painted.
        """
        ...

    def numbers(self) -> dict[str, int] | None:
        """The number of each class, by the key of its name; None in a format that has none."""
        ...


class Options(NamedTuple):
    """What a reference says after its format: files or a folder, and ``,images=FOLDER`` and ``,rest=ignore``."""

    paths: tuple[Path, ...]
    images: Path | None
    ignore_rest: bool


def options_of(text: str, reference: str) -> Options:
    """``PATH[,PATH...][,images=FOLDER][,rest=background|ignore]``.

    Raises:
        DataError: an option is unknown, or no path is named.
    """
    paths, images, rest = [], None, BACKGROUND
    for part in [text] if Path(text).exists() else text.split(","):
        name, mark, value = part.partition("=")
        if not mark or Path(part).exists():
            paths.append(Path(part).expanduser())
        elif name == "images":
            images = Path(value).expanduser()
        elif name == "rest" and value in (BACKGROUND, "ignore"):
            rest = value
        else:
            raise DataError(reference, "reference", f"cannot read {part!r}", "write images=FOLDER or rest=ignore")
    if not paths:
        raise DataError(reference, "reference", "names no path", "write the path first")
    return Options(tuple(paths), images, rest == "ignore")


def painted_dataset(
    reference: str,
    samples: Sequence[Sample],
    space: LabelSpace,
    annotations: Annotations,
    ignore_rest: bool,
    notes: Sequence[str] = (),
) -> FileDataset:
    """Images whose masks are painted from ``annotations``. A sample's ``mask`` is the file that describes its regions.

    What no region covers is the class ``background``, or ignored. Regions lie on the image as it is seen, turned by
    its EXIF mark.
    """
    rest = IGNORE if ignore_rest else [key(name) for name in space.classes].index(BACKGROUND)
    masks = PaintedMasks(annotations, space, rest)
    return FileDataset(reference, samples, space, masks, exif="follow", notes=notes)


def space_of_regions(name: str, classes: Sequence[str], ignore_rest: bool, colors: dict | None = None) -> LabelSpace:
    """The classes of regions, and first of all ``background`` unless it is among them or not wanted."""
    if not ignore_rest and BACKGROUND not in [key(each) for each in classes]:
        classes, colors = [BACKGROUND, *classes], {BACKGROUND: (0, 0, 0), **(colors or {})}
    return LabelSpace.of(name, classes, colors)


@dataclass(frozen=True)
class PaintedMasks:
    """Masks that are regions of a picture."""

    annotations: Annotations
    space: LabelSpace
    rest: int
    """The id of what no region covers."""

    def decode(self, sample: Sample) -> Tensor:
        assert sample.mask is not None
        file = cache_folder() / "painted" / self._digest(sample)
        with suppress(DataError):  # it is not painted yet, or was damaged since
            return read_ids(file).long()
        label = self._paint(sample, sample.mask)
        with suppress(SegRefineryError):  # a cache that cannot be written only costs time
            save_png(file, palette_image(label, self.space))
        return label

    def key(self) -> str:
        return f"painted {_VERSION} {type(self.annotations).__name__} {self.rest}"

    def _digest(self, sample: Sample) -> str:
        """A file name that changes with the picture, the annotations, the classes and the rules of painting."""
        told = [self.key(), str(self.space.classes), sample.name]
        for file in (sample.image, sample.mask):
            assert file is not None
            try:
                stat = file.stat()
            except OSError as error:
                raise unreadable_file(file, "path", error) from error
            told.append(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}")
        digest = hashlib.blake2b("\n".join(told).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return f"{digest[:2]}/{digest}.png"

    def _paint(self, sample: Sample, file: Path) -> Tensor:
        import torch

        size = image_size(sample.image)
        label = np.full(size, self.rest, dtype=np.uint8)
        ids = {key(name): place for place, name in enumerate(self.space.classes)}
        for region in self.annotations.regions(sample, size):
            if region.name is not None and key(region.name) not in ids:
                choices = ", ".join(self.space.classes)
                raise DataError(file, sample.name, f"has a region of {region.name!r}", f"the classes are {choices}")
            label[region.cover] = IGNORE if region.name is None else ids[key(region.name)]
        return torch.from_numpy(label).long()


def require_size(file: Path, sample: Sample, annotated: Size | None, size: Size) -> None:
    """Refuse a picture that is not of the height and width at which it was annotated."""
    if annotated is not None and annotated != size:
        raise DataError(
            file,
            sample.name,
            f"was annotated at {annotated[1]} x {annotated[0]}, its image {sample.image.name} is {size[1]} x {size[0]}",
            "use the image that was annotated, or export the annotations at its size",
        )


def size_stated(height: object, width: object, file: Path, place: str) -> Size | None:
    """The height and width that a file states for a picture; None where it states none.

    Raises:
        DataError: they are no whole numbers.
    """
    try:
        sides = [float(str(side)) if side else 0.0 for side in (height, width)]
        if not all(side.is_integer() for side in sides):
            raise ValueError
    except ValueError as error:
        raise DataError(file, place, f"states a size of {width} x {height}", "export the annotations anew") from error
    return (int(sides[0]), int(sides[1])) if all(sides) else None


def class_named(given: object, file: Path, place: str) -> str:
    """The name of a class as a file gives it; a number is a name too.

    Raises:
        DataError: there is none.
    """
    if not isinstance(given, str | int | float) or not str(given).strip():
        raise DataError(file, place, "has no name of a class", "name its class, or remove it")
    return str(given)


def image_folder(file: Path, names: Sequence[str], given: Path | None) -> Path:
    """The folder below which the pictures lie that an annotation file names.

    Without ``given``, the first of these that holds the first picture: the file's folder, its ``images``, the folder
    above, its ``images``, and in these the subfolder whose name ends the file's (``instances_val2017.json``).

    Raises:
        DataError: no such folder, or a picture is missing there.
    """
    above = file.parent.resolve().parent
    near = [file.parent, file.parent / "images", above, above / "images"]
    near += [folder / part for folder in near for part in (file.stem, file.stem.rpartition("_")[2])]
    near = [given] if given else near
    images_folder = next((folder for name in names[:3] for folder in near if (folder / name).is_file()), None)
    if images_folder is None:
        looked = given or f"{file.parent} or beside it"
        raise DataError(file, "images", f"{names[0]!r} is not in {looked}", "name their folder with ,images=FOLDER")
    missing = [name for name in names if not (images_folder / name).is_file()]
    if missing:
        problem = f"{len(missing)} of {len(names)} images are not in {images_folder}, first {missing[0]!r}"
        raise DataError(file, "images", problem, "complete the images, or name their folder with ,images=FOLDER")
    return images_folder


def samples_of(names: Sequence[tuple[str, Path, Path]], reference: str) -> list[Sample]:
    """Samples of (name in its file, image, annotation file), named without suffix where that tells them apart.

    Raises:
        DataError: a picture is described twice.
    """
    images: dict[Path, Path] = {}
    for name, image, file in names:
        if image in images:
            problem = f"{name!r} is described twice, in {images[image].name} too"
            raise DataError(file, "images", problem, "leave one of the two")
        images[image] = file
    stems = [str(Path(name).with_suffix("")) for name, _, _ in names]
    for chosen in (
        stems,
        [name for name, _, _ in names],
        [f"{file.stem}/{stem}" for stem, (_, _, file) in zip(stems, names)],
    ):
        if len(set(chosen)) == len(chosen):
            return [Sample(name, image, file) for name, (_, image, file) in zip(chosen, names, strict=True)]
    raise DataError(reference, "images", "several images have one name", "name fewer files")
