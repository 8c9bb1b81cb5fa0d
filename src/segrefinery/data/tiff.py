"""TIFF, read by tifffile: the one picture of a file, of any number of bands and any type of numbers."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from segrefinery.core.errors import SegRefineryError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin, those of more than 4 GB too."""
_LOOKS = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR")
_LOSSY = ("JPEG", "OJPEG", "JPEG_LOSSY", "WEBP", "JPEG2000", "JPEGXR")


class TiffPicture:
    """The picture of a TIFF file, with its header read and nothing else.

    Attributes:
        size: height and width. bands: how many, without one that is marked as alpha.
        lossless: whether numbers come back as they were written.

    Raises:
        SegRefineryError: tifffile is not installed. ValueError: what is wrong with the file, for one line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._file = _tifffile().TiffFile(stream)
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
        alpha = [extra.name for extra in first.extrasamples][-1:] in (["UNASSALPHA"], ["ASSOCALPHA"])
        self.bands = len(pages) if len(pages) > 1 else int(first.samplesperpixel) - alpha
        self.lossless = all(page.compression.name not in _LOSSY for page in pages)

    def read(self, rgb: bool) -> np.ndarray:
        """H x W, or H x W x bands: the stored numbers; with ``rgb`` a palette's colours, and white where white is 0."""
        first = self._pages[0]
        pages = [page.asarray() for page in self._pages]
        values = np.stack(pages, axis=-1) if len(pages) > 1 else pages[0]
        if first.axes == "SYX":
            values = np.moveaxis(values, 0, -1)
        if values.ndim == 3:
            values = values[..., : self.bands] if self.bands > 1 else values[..., 0]
        if values.dtype == bool:
            values = values.astype(np.uint8) * (255 if rgb else 1)
        if rgb and first.photometric.name == "PALETTE":
            return (first.colormap[:, values] >> 8).astype(np.uint8).transpose(1, 2, 0)
        if rgb and first.photometric.name == "MINISWHITE" and values.dtype.kind == "u":
            return np.iinfo(values.dtype).max - values
        return values


def _tifffile() -> Any:
    try:
        tifffile = import_module("tifffile")
    except ImportError as error:
        raise SegRefineryError("TIFF files need tifffile: pip install 'segrefinery[tiff]'.") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it raises
    return tifffile
