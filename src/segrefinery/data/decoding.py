"""The one way in which pixels of image and mask files come in: decoded whole and verified, or refused by name."""

from __future__ import annotations

import io
import os
import re
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segrefinery.core.errors import SegRefineryError
from segrefinery.data import png
from segrefinery.data.faults import DataError
from segrefinery.data.reading import Reading, colors_of
from segrefinery.data.tiff import MAGIC as TIFF
from segrefinery.data.tiff import TiffPicture

if TYPE_CHECKING:
    from torch import Tensor

MOST_PIXELS = 200_000_000
"""Images of more pixels are refused from their header, unless ``SEGREFINERY_MAX_PIXELS`` says otherwise."""
_SWITCH = "SEGREFINERY_MAX_PIXELS"

_JPEG = b"\xff\xd8"
# Opened by class and not by ``Image.open``: its limit of pixels is global, and it warns of images that are only large.
_READERS: dict[bytes, type[ImageFile]] = {
    png.MAGIC: PngImageFile,
    _JPEG: JpegImageFile,
    b"RIFF": WebPImageFile,
    b"GIF8": GifImageFile,
    b"BM": BmpImageFile,
}
_EXACT = (png.MAGIC, b"GIF8", b"BM")
"""How files begin that keep a mask's numbers, besides TIFF."""
_DAMAGE = (
    r"truncat|failed to read|missing data|incomplete|corrupt|premature|broken|not enough|unexpected end|checksum"
    r"|too short|stream error"
)
_ORIENTATION = 0x0112


def read_image(path: Path, reading: Reading | None = None, data: bytes | None = None) -> Tensor:
    """An image file as uint8 RGB, 3 x H x W: grey repeated, alpha dropped, other numbers than 8 bits scaled to them; or
    bands x H x W where ``reading`` names other bands.

    Args:
        data: the content of the file, where it does not lie on disk; ``path`` is its name then.
        reading: which bands and which range of numbers are seen, and whether a JPEG is turned.
    """
    import torch

    reading = reading or Reading()
    values = decoded(path, "image", rgb=True, upright=reading.upright, data=data)
    pixels = torch.from_numpy(colors_of(path, values, reading))
    if pixels.ndim == 2:
        return pixels.expand(reading.count, *pixels.shape).contiguous()
    # A pixel's bands lie side by side in memory, as a decoder leaves them: so torch resizes faster.
    return pixels.permute(2, 0, 1)


def read_ids(path: Path, channel: int | None = None, data: bytes | None = None) -> Tensor:
    """``ids_and_alpha`` of a mask of which each pixel counts."""
    return ids_and_alpha(path, channel, data)[0]


def ids_and_alpha(path: Path, channel: int | None = None, data: bytes | None = None) -> tuple[Tensor, Tensor | None]:
    """The numbers a mask file stores, H x W uint8 or uint16: grey values, palette indices, or a colour PNG's channel;
    and H x W bool, where its alpha channel is 0 (see ``without_alpha``).

    PNGs of fewer than 8 bits a pixel give the stored numbers too (0 and 1, not 0 and 255). Without ``channel``, a
    colour PNG must be grey in truth.
    """
    import torch

    ids, transparent = without_alpha(decoded(path, "mask", data=data))
    if ids.ndim == 3:
        if channel is None and not is_grey(ids):
            raise DataError(
                path, "mask", "is a colour picture, but its data set declares ids", "give 'colors' or 'labelmap'"
            )
        ids = np.ascontiguousarray(ids[..., channel or 0])
    return torch.from_numpy(ids), None if transparent is None else torch.from_numpy(transparent)


def is_grey(values: np.ndarray) -> bool:
    """Whether the bands of a picture without alpha, H x W or H x W x C, are all the same."""
    return values.ndim == 2 or bool((values == values[..., :1]).all())


def without_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers of a decoded mask without its alpha, and H x W bool, where that is 0; None where it is so nowhere.
    An alpha channel says of each pixel what its numbers do not; an entry of a palette that is transparent is one id."""
    if values.ndim == 2 or values.shape[2] not in (2, 4):
        return values, None
    transparent = values[..., -1] == 0
    return values[..., :-1], transparent if transparent.any() else None


def image_size(path: Path, upright: bool = True, data: bytes | None = None) -> tuple[int, int]:
    """Height and width as ``read_image`` gives them, read from the header alone."""
    (height, width), mark = stored_size(path, data)
    return (width, height) if upright and mark >= 5 else (height, width)


def stored_size(path: Path, data: bytes | None = None) -> tuple[tuple[int, int], int]:
    """Height and width as stored, and a JPEG's EXIF mark of rotation: 1 for none, 5 to 8 swap the sides; of a file, or
    of its content."""
    if data is None:
        _regular(path, "image")
    stream = path.open("rb") if data is None else io.BytesIO(data)
    with stream:
        if _is_tiff(stream):
            return _tiff(stream, path, "image").size, 1
        with _opened(stream, path, "image") as image:
            width, height = image.size
            return (height, width), _orientation(image) if isinstance(image, JpegImageFile) else 1


def palette_in(path: Path) -> list[int] | None:
    """The palette of a picture as red, green, blue, red, ...; None of a file without one."""
    _regular(path, "mask")
    with path.open("rb") as stream:
        if _is_tiff(stream):
            return None
        with _opened(stream, path, "mask") as image:
            return image.getpalette() if image.mode == "P" else None


def bands_in(path: Path) -> int:
    """How many bands a picture has, alpha left out, read from the header alone; 3 of what is no TIFF, even grey."""
    _regular(path, "image")
    with path.open("rb") as stream:
        return _tiff(stream, path, "image").bands if _is_tiff(stream) else 3


def decoded(path: Path, field: str, rgb: bool = False, upright: bool = True, data: bytes | None = None) -> np.ndarray:
    """What a PNG, JPEG, WebP, BMP, TIFF or GIF file of one picture stores: H x W, or H x W x C, uint8 or uint16; of a
    TIFF any number of bands and any type of numbers.

    Args:
        field: ``image`` or ``mask``, for the error. A mask must be a PNG, GIF or BMP, or a TIFF that keeps its numbers.
        rgb: what the picture looks like, H x W x 3, and of a mask with alpha x 4; else the stored numbers. Grey of 16
            bits stays H x W.
        upright: JPEG is turned as its EXIF mark says.
        data: the content of the file, where it does not lie on disk; ``path`` is its name then.

    Raises:
        DataError: the file is missing, no picture, damaged (a JPEG with a hole and a PNG with a wrong checksum too),
            an animation, or larger than ``SEGREFINERY_MAX_PIXELS`` allows.
    """
    data = _read(path, field) if data is None else data
    if data.startswith(TIFF):
        return _decoded_tiff(data, path, field, rgb)
    if field == "mask" and not data.startswith(_EXACT):
        problem = "not a PNG file, nor a TIFF, GIF or BMP"
        raise DataError(path, "mask", problem, "save masks as PNG or TIFF; other formats change the ids")
    if data.startswith(png.MAGIC) and not png.is_whole(data):
        raise _damaged(path, field)
    with _opened(io.BytesIO(data), path, field) as image:
        pictures = getattr(image, "n_frames", 1) if isinstance(image, GifImageFile | WebPImageFile) else 1
        if pictures > 1:
            raise DataError(path, field, f"is an animation of {pictures} pictures", "save each as a PNG of its own")
        try:
            if isinstance(image, JpegImageFile):
                return _jpeg(image, data, upright)
            if isinstance(image, PngImageFile):
                return png.stored_pixels(image, data, rgb, alpha=field == "mask")
            image.load()
            return png.as_rgb(image, field == "mask") if rgb else np.array(image, dtype=np.uint8)
        except Exception as error:
            raise undecodable(path, field, error) from error


def _is_tiff(stream: BinaryIO) -> bool:
    start = stream.read(4)
    stream.seek(0)
    return start in TIFF


def is_tiff_file(path: Path) -> bool:
    """Whether an image file is a TIFF, as its content says."""
    _regular(path, "image")
    with path.open("rb") as stream:
        return _is_tiff(stream)


def open_tiff(path: Path, field: str, in_parts: bool = False) -> TiffPicture:
    """A TIFF with its header read, of which parts can be read later.

    Args:
        in_parts: take one that is too large to be decoded whole.
    """
    return _tiff(path.open("rb"), path, field, in_parts)


def _tiff(stream: BinaryIO, path: Path, field: str, in_parts: bool = False) -> TiffPicture:
    try:
        picture = TiffPicture(stream)
    except SegRefineryError:
        raise
    except Exception as error:
        raise undecodable(path, field, error) from error
    if not in_parts:
        _refuse_size(path, field, *picture.size)
    return picture


def _decoded_tiff(data: bytes, path: Path, field: str, rgb: bool) -> np.ndarray:
    picture = _tiff(io.BytesIO(data), path, field)
    try:
        values = picture.read(rgb, alpha=field == "mask")
    except Exception as error:
        raise undecodable(path, field, error) from error
    if field == "image":
        return values
    colored = picture.bands == 3 or (rgb and picture.bands == 1)
    if colored and picture.lossless and values.dtype == np.uint8:
        bands = np.atleast_3d(values)
        return np.concatenate([bands[..., :1]] * 3 + [bands[..., 1:]], axis=-1) if picture.bands == 1 else values
    if values.dtype.kind == "i" and picture.bands == 1 and values.min() < 0:
        raise DataError(
            path, "mask", f"holds the id {values.min()}", "give ids from 0 to 65535, 255 for what is ignored"
        )
    if not picture.lossless or picture.bands > 1 or values.dtype.kind not in "ui":
        problem = f"is a TIFF of {picture.bands} bands of {values.dtype}{'' if picture.lossless else ', not lossless'}"
        remedy = "save masks as whole numbers in one band, without JPEG, or as RGB of 8 bits"
        raise DataError(path, "mask", problem, remedy)
    if values.max() >= 1 << 16:
        raise DataError(path, "mask", f"holds the id {values.max()}", "give ids up to 65535")
    return values.astype(np.uint8 if values.dtype.itemsize == 1 else np.uint16)


def _jpeg(image: JpegImageFile, data: bytes, upright: bool) -> np.ndarray:
    """Its RGB. Pillow would fill what is missing with grey and say nothing."""
    if image.mode == "CMYK":
        simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=True)
        values = np.array(image.convert("RGB"))
    else:
        values = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    if not upright or _orientation(image) == 1:
        return values
    turned = Image.fromarray(values)
    turned.getexif()[_ORIENTATION] = _orientation(image)
    return np.array(ImageOps.exif_transpose(turned))


def _orientation(image: ImageFile) -> int:
    return int(image.getexif().get(_ORIENTATION, 1))


def _regular(path: Path, field: str) -> int:
    """The size of a file in bytes; refuses what is none: to read a pipe or a device might never end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise unreadable_file(path, field, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(path, field, "is a folder, a pipe or a device and no file", "remove it")
    return status.st_size


def _read(path: Path, field: str) -> bytes:
    if not _regular(path, field):
        raise DataError(path, field, "the file is empty", "copy it again or remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable_file(path, field, error) from error


def unreadable_file(path: Path, field: str, error: Exception) -> DataError:
    """The error about a file that the system does not hand out."""
    reason = getattr(error, "strerror", None) or error
    return DataError(path, field, f"cannot be read ({reason})", "check the path and its permissions")


def _opened(stream: BinaryIO, path: Path, field: str) -> ImageFile:
    """The picture with its header read and nothing else; refuses one that is too large."""
    start = stream.read(8)
    stream.seek(0)
    reader = next((reader for magic, reader in _READERS.items() if start.startswith(magic)), None)
    if reader is None:
        what = "not an image that can be decoded (PNG, JPEG, WebP, BMP, TIFF)"
        raise DataError(path, field, what, "copy it again, convert it or remove it")
    try:
        image = reader(stream)
    except Exception as error:
        raise undecodable(path, field, error) from error
    _refuse_size(path, field, *image.size[::-1])
    return image


def _refuse_size(path: Path, field: str, height: int, width: int) -> None:
    if width * height > most_pixels():
        raise DataError(
            path,
            field,
            f"has {width} x {height} pixels, more than {most_pixels():,}",
            f"cut it into tiles, or set the environment variable {_SWITCH} to a larger number",
        )


def most_pixels() -> int:
    """Of an image that is decoded whole.

    Raises:
        SegRefineryError: ``SEGREFINERY_MAX_PIXELS`` is no number.
    """
    given = os.environ.get(_SWITCH, "")
    if not given:
        return MOST_PIXELS
    if not re.fullmatch(r"[1-9]\d{0,14}", given):
        raise SegRefineryError(f"{_SWITCH} is {given!r}; set it to a number of pixels, for instance {2 * MOST_PIXELS}.")
    return int(given)


def _damaged(path: Path, field: str) -> DataError:
    return DataError(path, field, "truncated or damaged", "copy it again, convert it or remove it")


def undecodable(path: Path, field: str, error: Exception) -> DataError:
    """The error about a file of which a decoder says something else."""
    if isinstance(error, EOFError | IndexError | zlib.error) or re.search(_DAMAGE, str(error), re.IGNORECASE):
        return _damaged(path, field)
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(path, field, f"cannot be decoded ({reason})", "copy it again, convert it or remove it")
