"""Segment images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.overlap import overlapped
from segrefinery.data.datasets import open_dataset
from segrefinery.data.decoding import DataError
from segrefinery.data.label_files import write_manifest
from segrefinery.engine.model import Model, load
from segrefinery.interchange.pictures import Predictions, Seen, times
from segrefinery.verbs.zoom import at_size, reading_of, warn_of_reading


@dataclass
class Predicted:
    """What ``write_predictions`` did.

    Attributes:
        written: images whose results are in the folder. images: how many there were.
        unreadable: what was wrong with each of the others.
        reading: at which size the first was read, and the zoom against training.
    """

    written: int
    images: int
    unreadable: list[SegRefineryError] = field(default_factory=list)
    reading: str = ""

    def first_faults(self, most: int = 5) -> str:
        """What is wrong, of so many images."""
        more = len(self.unreadable) - most
        return " ".join(map(str, self.unreadable[:most])) + (f" And {more} more." if more > 0 else "")


def predict(
    run: str | Path | Model,
    images: str | Path,
    *,
    factor: float = 1.0,
    size: str | int = "trained",
    skip: Callable[[SegRefineryError], None] | None = None,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each image's name, its uint8 3 x H x W pixels and its class probabilities, C x H x W times ``factor``.

    Args:
        images: a folder, a glob, a file, or any data set's name.
        factor: size of the probabilities over that of the image; what decodes at any resolution (IR2F) does.
        size: at which size images are read: as ``trained``, ``native``, or pixels of the shorter side.
        skip: told of an image that cannot be read, which is then left out; without it the error is raised.
    """
    model = at_size(run if isinstance(run, Model) else load(run), size)
    dataset, said = open_dataset(str(images)), False
    for index in range(len(dataset)):
        try:
            image = dataset.image(index)
        except SegRefineryError as error:
            if skip is None:
                raise
            skip(error)
            continue
        if not said:
            warn_of_reading(model, dataset, image)
            said = True
        yield dataset.name(index), image, model.predict(image, times((image.shape[-2], image.shape[-1]), factor))


def refuse_inside(output: str | Path, images: str | Path) -> None:
    """Refuse results among the images that they are made of: the next reading would take them for images."""
    if Path(images).is_dir() and Path(output).resolve().is_relative_to(Path(images).resolve()):
        raise SegRefineryError(f"{output}: lies in {images}, whose images are read; name a folder outside with -o")


def write_predictions(
    run: str | Path | Model,
    images: str | Path,
    output: str | Path,
    *,
    factor: float = 1.0,
    size: str | int = "trained",
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> Predicted:
    """Write what ``predict`` finds: of each image class ids, a colour overlay and the confidence, and ``files.csv``.
    Large pictures are written strip by strip, and continued where an earlier run was stopped.

    Args:
        factor, size: as of ``predict``.

    Raises:
        SegRefineryError: the folder cannot be written, or none of the images can be read.
    """
    refuse_inside(output, images)
    model = at_size(run if isinstance(run, Model) else load(run), size)
    dataset = open_dataset(str(images))
    result, kept = Predicted(0, len(dataset)), {}
    work = Predictions(model, dataset, Path(output), factor)
    told = 0.0

    def tell(done: float) -> None:  # a large picture may have begun before the one in front of it is written
        nonlocal told
        told = max(told, done)
        progress(told, result.images)

    def compute(place: int, seen: Seen | SegRefineryError) -> Callable[[], object]:
        if isinstance(seen, SegRefineryError):
            result.unreadable.append(seen)
            return lambda: None
        if not result.reading:
            warn_of_reading(model, dataset, seen.picture.size)
            result.reading = reading_of(model, seen.picture.size)
        try:
            # The place in the data set: an image that is mended gets the number left for it.
            write = work.compute(place, seen, lambda share: tell(place + share))
        except DataError as error:  # what is wrong in the middle of a large picture
            result.unreadable.append(error)
            return lambda: None
        kept[place] = work.label_file(place, seen.picture)
        return write

    for place in overlapped(range(len(dataset)), work.read, compute):
        tell(place + 1)
    if not kept:
        raise SegRefineryError(f"{images}: none of its {result.images} images can be read; {result.first_faults()}")
    write_manifest(Path(output), [(place, dataset.name(place), file) for place, file in kept.items()])
    result.written = len(kept)
    return result
