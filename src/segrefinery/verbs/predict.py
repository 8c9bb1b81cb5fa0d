"""Segment images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.label_files import write_manifest
from segrefinery.data.transforms import resize_image
from segrefinery.engine.model import Model, load
from segrefinery.interchange.predictions import write_prediction
from segrefinery.verbs.zoom import warn_of_reading


@dataclass
class Predicted:
    """What ``write_predictions`` did.

    Attributes:
        written: images whose results are in the folder. images: how many there were.
        unreadable: what was wrong with each of the others.
    """

    written: int
    images: int
    unreadable: list[SegRefineryError] = field(default_factory=list)

    def first_faults(self, most: int = 5) -> str:
        """What is wrong, of so many images."""
        more = len(self.unreadable) - most
        return " ".join(map(str, self.unreadable[:most])) + (f" And {more} more." if more > 0 else "")


def predict(
    run: str | Path | Model,
    images: str | Path,
    *,
    factor: float = 1.0,
    skip: Callable[[SegRefineryError], None] | None = None,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each image's name, its uint8 3 x H x W pixels and its class probabilities, C x H x W times ``factor``.

    Args:
        images: a folder, a glob, a file, or any data set's name.
        factor: size of the probabilities over that of the image; what decodes at any resolution (IR2F) does.
        skip: told of an image that cannot be read, which is then left out; without it the error is raised.
    """
    model = run if isinstance(run, Model) else load(run)
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
        size = tuple(max(1, round(side * factor)) for side in image.shape[-2:])
        yield dataset.name(index), image, model.predict(image, size)  # pyright: ignore[reportArgumentType]


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predicted:
    """Write what ``predict`` finds: of each image class ids, a colour overlay and the confidence, and ``files.csv``.

    Raises:
        SegRefineryError: the folder cannot be written, or none of the images can be read.
    """
    refuse_inside(output, images)
    model = run if isinstance(run, Model) else load(run)
    folder, result = Path(output), Predicted(0, len(open_dataset(str(images))))
    rows = []
    for name, image, probs in predict(model, images, factor=factor, skip=result.unreadable.append):
        # The place in the data set: an image that is mended gets the number left for it.
        place = len(rows) + len(result.unreadable)
        if image.shape[-2:] != probs.shape[-2:]:
            image = resize_image(image, (probs.shape[-2], probs.shape[-1]))
        paths = write_prediction(folder, place, name, image, probs, model.space)
        rows.append((place, name, paths["label"].name))
        progress(place + 1, result.images)
    if not rows:
        raise SegRefineryError(f"{images}: none of its {result.images} images can be read; {result.first_faults()}")
    write_manifest(folder, rows)
    result.written = len(rows)
    return result
