"""TIFF, read by tifffile: the one picture of a file, of any number of bands and any type of numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from segrefinery.core.lazy import optional

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin, those of more than 4 GB too."""
_LOOKS = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR")
_LOSSY = ("JPEG", "OJPEG", "JPEG_LOSSY", "WEBP", "JPEG2000", "JPEGXR")

GEO = (33550, 33922, 34264, 34735, 34736, 34737)
"""Tags of a GeoTIFF: scale of a pixel, tie points, transformation, and the keys of its coordinate system."""


class GeoTag(NamedTuple):
    """A tag of a GeoTIFF, as it is stored."""

    code: int
    kind: int
    count: int
    value: Any


class TiffPicture:
    """The picture of a TIFF file, with its header read and nothing else.

    Attributes:
        size: height and width. bands: how many, without one that is marked as alpha. alpha: whether
            there is one. dtype: of its numbers.
        geo: the tags that say where on earth it lies. note: its description.
        lossless: whether numbers come back as they were written.

    Raises:
        SegRefineryError: tifffile is not installed. ValueError: what is wrong with the file, for one line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._file = need_tifffile().TiffFile(stream)
        # Smaller copies and masks of transparency are kept as further pages.
        pages: list[Any] = [page for page in self._file.pages if not (page.is_reduced or page.is_mask)]
        shapes = {page.shape for page in pages}
        if len(shapes) > 1:
            told = " and ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)[:3])
            raise ValueError(f"it holds {len(pages)} pictures of different sizes: {told}")
        if not pages:
            raise ValueError("it holds no picture")
        self._pages = pages
        first = pages[0]
        if first.photometric.name not in _LOOKS:
            raise ValueError(f"its colours are {first.photometric.name}")
        if len(pages) > 1 and first.axes != "YX":
            raise ValueError(f"it holds {len(pages)} pictures")
        self.size = int(first.imagelength), int(first.imagewidth)
        last = [extra.name for extra in first.extrasamples][-1:]
        self.alpha = len(pages) == 1 and last in (["UNASSALPHA"], ["ASSOCALPHA"])
        self.bands = len(pages) if len(pages) > 1 else int(first.samplesperpixel) - self.alpha
        self.dtype = np.dtype(first.dtype)
        self.lossless = all(page.compression.name not in _LOSSY for page in pages)
        self.geo = tuple(_geo_tags(first))
        self.note = str(first.description)

    @property
    def rows_at_once(self) -> int:
        """How many rows have to be decoded for one."""
        return min(self._chunk[0], self.size[0])

    @property
    def _chunk(self) -> tuple[int, int]:
        """Height and width of a tile or strip."""
        first = self._pages[0]
        if first.is_tiled:
            return int(first.tilelength), int(first.tilewidth)
        return min(int(first.rowsperstrip), self.size[0]), self.size[1]

    def read(self, rgb: bool, alpha: bool = False) -> np.ndarray:
        """H x W, or H x W x bands: the stored numbers; with ``rgb`` a palette's colours, and white where white is 0.
        With ``alpha`` H x W x bands and, last, alpha, if there is one."""
        pages = [page.asarray() for page in self._pages]
        pages = [np.moveaxis(page, 0, -1) if page.ndim == 3 and self._apart else page for page in pages]
        if alpha and self.alpha and self._pages[0].photometric.name in ("MINISBLACK", "RGB"):
            return pages[0]
        return self._joined(pages, rgb)

    def part(self, box: tuple[int, int, int, int], rgb: bool) -> np.ndarray:
        """The rows and columns ``box`` (top, left, bottom, right) of ``read``; only its tiles or strips are decoded.

        Raises:
            ValueError: a tile or strip that is cut short; and whatever its decoder says of a broken one.
        """
        pages = [_part(page, box, self._chunk, self._apart) for page in self._pages]
        return self._joined(pages, rgb)

    @property
    def _apart(self) -> bool:
        """Whether each band has tiles or strips of its own."""
        return self._pages[0].axes == "SYX"

    def _joined(self, pages: list[np.ndarray], rgb: bool) -> np.ndarray:
        first = self._pages[0]
        values = np.stack(pages, axis=-1) if len(pages) > 1 else pages[0]
        if values.ndim == 3:
            values = values[..., : self.bands] if self.bands > 1 else values[..., 0]
        if values.dtype == bool:
            values = values.astype(np.uint8) * (255 if rgb else 1)
        if rgb and first.photometric.name == "PALETTE":
            return (first.colormap[:, values] >> 8).astype(np.uint8).transpose(1, 2, 0)
        if rgb and first.photometric.name == "MINISWHITE" and values.dtype.kind == "u":
            return np.iinfo(values.dtype).max - values
        return values


def _part(page: Any, box: tuple[int, int, int, int], chunk: tuple[int, int], apart: bool) -> np.ndarray:
    """A part of one page, H x W or H x W x samples."""
    top, left, bottom, right = box
    samples = int(page.samplesperpixel)
    shape = (bottom - top, right - left, samples) if samples > 1 else (bottom - top, right - left, 1)
    pixels = np.full(shape, page.nodata, dtype=page.dtype)
    down, across = (-(-side // step) for side, step in zip((page.imagelength, page.imagewidth), chunk, strict=True))
    for plane in range(samples if apart else 1):
        for row in range(top // chunk[0], -(-bottom // chunk[0])):
            for column in range(left // chunk[1], -(-right // chunk[1])):
                tile = _tile(page, (plane * down + row) * across + column)
                if tile is None:
                    continue
                y, x = row * chunk[0], column * chunk[1]
                height, width = min(tile.shape[0], page.imagelength - y), min(tile.shape[1], page.imagewidth - x)
                rows = slice(max(top, y), min(bottom, y + height))
                columns = slice(max(left, x), min(right, x + width))
                target = pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                cut = tile[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
                target[..., plane : plane + tile.shape[2]] = cut
    return pixels if samples > 1 else pixels[..., 0]


def _tile(page: Any, number: int) -> np.ndarray | None:
    """A decoded tile or strip, height x width x samples; None where the file has nothing (a sparse one)."""
    offset, count = page.dataoffsets[number], page.databytecounts[number]
    if not count:
        return None
    with page.parent.filehandle.lock or nullcontext():
        page.parent.filehandle.seek(offset)
        data = page.parent.filehandle.read(count)
    if len(data) < count:
        raise ValueError(f"truncated: its tile or strip {number} is cut short")
    tables: dict[str, Any] = {}
    if page.compression.name in ("JPEG", "OJPEG"):
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    decoded, _, _ = page.decode(data, number, **tables)
    return None if decoded is None else decoded[0]


def _geo_tags(page: Any) -> Iterator[GeoTag]:
    for code in GEO:
        tag = page.tags.get(code)
        if tag is not None:
            yield GeoTag(code, int(tag.dtype), int(tag.count), tag.value)


def need_tifffile() -> Any:
    """The library.

    Raises:
        SegRefineryError: it is not installed.
    """
    library = optional("tifffile", "TIFF files need tifffile", "tiff")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it raises
    return library
