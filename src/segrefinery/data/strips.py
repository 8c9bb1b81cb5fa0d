"""Pictures that are read row by row, so that one of any size fits into memory: TIFF in its own tiles or strips, other
formats by one decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from segrefinery.core.files import read_once
from segrefinery.data.decoding import image_size, is_tiff_file, open_tiff, read_image, undecodable
from segrefinery.data.reading import Reading, colors_of
from segrefinery.data.tiff import GeoTag, TiffPicture

if TYPE_CHECKING:
    from torch import Tensor

MEASURED = 1 << 22
"""Pixels by which the range of a picture is measured; of a larger one every n-th row is taken."""
IN_PARTS = 1 << 23
"""Pixels from which training reads the part of a picture that a crop shows, where it can be had."""
AT_ONCE = 1 << 23
"""Pixels of a picture that are resized at once."""


class Picture(Protocol):
    """A picture from which rows can be had.

    Attributes:
        size: height and width. whole: whether its first row takes the decode of all of it.
        geo: tags that say where on earth it lies.
    """

    size: tuple[int, int]
    whole: bool
    geo: tuple[GeoTag, ...]

    def rows(self, top: int, bottom: int) -> Tensor:
        """uint8, bands x (bottom - top) x W."""
        ...

    def part(self, top: int, left: int, bottom: int, right: int) -> Tensor:
        """uint8, bands x (bottom - top) x (right - left)."""
        ...


class WholePicture:
    """A picture that is decoded at once, when its first row is asked for."""

    whole = True

    def __init__(self, size: tuple[int, int], read: Callable[[], Tensor], geo: tuple[GeoTag, ...] = ()) -> None:
        self.size, self._read, self.geo = size, read, geo
        self._image: Tensor | None = None

    @property
    def image(self) -> Tensor:
        """All of it, uint8 bands x H x W."""
        if self._image is None:
            self._image = self._read()
        return self._image

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.image[:, top:bottom]

    def part(self, top: int, left: int, bottom: int, right: int) -> Tensor:
        return self.image[:, top:bottom, left:right]


class TiffRows:
    """A TIFF of which only those tiles or strips are read that hold the rows."""

    whole = False

    def __init__(self, path: Path, picture: TiffPicture, reading: Reading) -> None:
        self.path, self._picture = path, picture
        self.size, self.geo = picture.size, picture.geo
        self.rows_at_once = picture.rows_at_once
        self._reading = reading

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.part(top, 0, bottom, self.size[1])

    def part(self, top: int, left: int, bottom: int, right: int) -> Tensor:
        import torch

        stored = self._stored(top, bottom, left, right)
        pixels = torch.from_numpy(colors_of(self.path, stored, self._reading))
        if pixels.ndim == 2:
            return pixels.expand(self._reading.count, *pixels.shape)
        return pixels.permute(2, 0, 1)  # of a wide picture a copy is many megabytes

    def _stored(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> np.ndarray:
        try:
            return self._picture.part((top, left, bottom, self.size[1] if right is None else right), rgb=True)
        except Exception as error:
            raise undecodable(self.path, "image", error) from error

    @property
    def settled(self) -> bool:
        """Whether every part is read alike, whatever the others hold."""
        return self._reading.range is not None or (self._picture.dtype == np.uint8 and self._reading.percentile is None)

    def measured(self) -> Reading:
        """The reading with a range that is the picture's, where each strip would have one of its own."""
        reading = self._reading
        if reading.percentile is not None:
            step = max(1, -(-self.size[0] * self.size[1] // MEASURED))
            rows = [self._stored(*ends)[(-ends[0]) % step :: step] for ends in self._ends()]
            return reading.measured(self.path, np.concatenate(rows))
        peaks = [self._stored(*ends).max(axis=(0, 1), keepdims=True) for ends in self._ends()]
        colors_of(self.path, np.max(peaks, axis=0), reading)  # which refuses what is too dark
        return reading if reading.bits else replace(reading, bits=16)

    def _ends(self) -> Iterator[tuple[int, int]]:
        height, step = self.size[0], self.rows_at_once
        return ((top, min(top + step, height)) for top in range(0, height, step))


def open_picture(path: Path, reading: Reading | None = None) -> Picture:
    """The picture of an image file, as ``read_image`` shows it.

    Raises:
        DataError: it cannot be read, or is too large and cannot be read in parts.
    """
    reading = reading or Reading()
    if not is_tiff_file(path):
        return WholePicture(image_size(path, reading.upright), lambda: read_image(path, reading))
    picture = open_tiff(path, "image", in_parts=True)
    if picture.rows_at_once * picture.size[1] > AT_ONCE * 4:  # one strip, compressed
        open_tiff(path, "image")
        return WholePicture(picture.size, lambda: read_image(path, reading), picture.geo)
    rows = TiffRows(path, picture, reading)
    if rows.settled:
        return rows
    return TiffRows(path, picture, _measured(path, reading))


@read_once(4096)
def _measured(path: Path, reading: Reading) -> Reading:
    """Of a picture that is opened anew for each crop."""
    return TiffRows(path, open_tiff(path, "image", in_parts=True), reading).measured()
