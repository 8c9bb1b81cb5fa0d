"""The way of an image to its prediction on disk: read, looked at, written, whole or strip by strip."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixelwise import confidence_and_label
from segrefinery.data.datasets import ImageDataset, files_of, picture_of
from segrefinery.data.label_files import file_stem
from segrefinery.data.strips import Picture
from segrefinery.data.transforms import resize_image
from segrefinery.engine.model import Model
from segrefinery.evaluation.strips import is_large
from segrefinery.interchange.large import files_of_large, write_large
from segrefinery.interchange.predictions import write_prediction
from segrefinery.interchange.raster import scaled

HEAVY = 1 << 27
"""Pixels from which a picture that has to be decoded whole is told of."""


@dataclass
class OpenedImage:
    """An image that was read: uint8 3 x H x W, or None where it is large and will be read row by row."""

    picture: Picture
    image: Tensor | None


@dataclass
class Predictions:
    """The predictions of a data set's images in a folder.

    Attributes:
        factor: size of the results over that of the images.
    """

    model: Model
    dataset: ImageDataset
    folder: Path
    factor: float = 1.0

    def read(self, place: int) -> OpenedImage | SegRefineryError:
        """An image, or what is wrong with it."""
        try:
            picture = picture_of(self.dataset, place)
            if not self._large(picture):
                return OpenedImage(picture, self.dataset.image(place))
            pixels = picture.size[0] * picture.size[1]
            if picture.whole and pixels > HEAVY:
                warnings.warn(
                    f"{self.dataset.name(place)}: this format is decoded whole, {3 * pixels / 2**30:.1f} GiB; a tiled "
                    "TIFF is read in parts",
                    stacklevel=2,
                )
            return OpenedImage(picture, None)
        except SegRefineryError as error:
            return error

    def compute(self, place: int, opened: OpenedImage, progress: Callable[[float], None]) -> Callable[[], object]:
        """Look at an image -> what writes its prediction. That of a large picture is written when this returns.

        Raises:
            SegRefineryError: a part of a large picture cannot be read, or memory or disk are full.
        """
        picture, out = opened.picture, times(opened.picture.size, self.factor)
        name = self.dataset.name(place)
        if opened.image is None:
            about = f"{self._digest} {_stamp(self.dataset, place)}"
            write_large(self.folder, place, name, picture, self.model, out, about, progress)
            return lambda: None
        confidence, label = confidence_and_label(self.model.predict(opened.image, out))
        geo = scaled(picture.geo, (out[0] / picture.size[0], out[1] / picture.size[1]))
        shown = partial(resize_image, opened.image, out)
        return lambda: write_prediction(
            self.folder, place, name, shown(), label, confidence, self.model.space, geo
        )  # fmt: skip

    def label_file(self, place: int, picture: Picture) -> Path:
        """The file with an image's class ids."""
        out, name = times(picture.size, self.factor), self.dataset.name(place)
        if self._large(picture):
            return files_of_large(self.folder, place, name, picture, out)["label"]
        return self.folder / f"{file_stem(place, name)}.{'tif' if picture.geo else 'png'}"

    def _large(self, picture: Picture) -> bool:
        return is_large(self.model.data, picture.size, times(picture.size, self.factor))

    @cached_property
    def _digest(self) -> str:
        return self.model.digest()


def times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Height and width of a result whose size over that of its image is ``factor``."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _stamp(dataset: ImageDataset, place: int) -> str:
    """What changes when an image does."""
    files = files_of(dataset, place)[:1]
    return " ".join(f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
