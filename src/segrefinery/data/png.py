"""PNG files: their pixels as stored, and whether all of them are there, which decoders do not say."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

try:
    from imagecodecs import spng_decode as _spng
except ImportError:  # of the extra "fast"
    _spng = None

MAGIC = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column of each pass of an interlaced PNG, and the steps to the next ones."""


def stored_pixels(image: PngImageFile, data: bytes, rgb: bool, alpha: bool = False) -> np.ndarray:
    """What a PNG of which the header is read stores: H x W or H x W x C, uint8 or uint16; see ``decoding.decoded``.

    Raises:
        Exception: of the decoder's own kind; ValueError where the stream ends before the last row.
    """
    bits, interlaced = data[24], bool(data[28])
    plain = bits == 8 and not interlaced and "transparency" not in image.info
    if _spng is not None and plain and image.mode in (("RGB",) if rgb else ("RGB", "L")):
        return _spng(data)  # a quarter faster than Pillow
    if bits == 16:
        values = _sixteen_bits(image, data)
        values = _without_alpha(values) if rgb and not alpha else values
    else:
        image.load()
        values = as_rgb(image, alpha) if rgb else np.array(image, dtype=np.uint8)
        if not rgb and image.mode == "L":  # Pillow widens grey of 2 and 4 bits to the range 0..255
            values //= 255 // (2**bits - 1)
    # What Pillow does not find in a stream that ends early is 0, without a word.
    if interlaced or image.mode == "P" or not values[-1].any():
        _verify_rows(data)
    return values


def is_whole(data: bytes) -> bool:
    """Whether a PNG reaches its end and no bit has changed: decoders skip most checksums."""
    view, start = memoryview(data), len(MAGIC)
    while True:
        size = int.from_bytes(view[start : start + 4], "big")
        end = start + 8 + size
        if len(data) < end + 4 or zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if view[start + 4 : start + 8] == b"IEND":
            return True
        start = end + 4


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of the chunks of a whole PNG."""
    view, start = memoryview(data), len(MAGIC)
    while start < len(data):
        size = int.from_bytes(view[start : start + 4], "big")
        yield bytes(view[start + 4 : start + 8]), view[start + 8 : start + 8 + size]
        start += 12 + size


def _verify_rows(data: bytes) -> None:
    """Refuse a PNG whose stream ends before its last row."""
    width, height, bits, color = struct.unpack(">IIBB", data[16:26])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    passes = _ADAM7 if data[28] else ((0, 0, 1, 1),)
    sides = ((-((top - height) // down), -((left - width) // right)) for top, left, down, right in passes)
    wanted = sum(rows * (1 + (columns * channels * bits + 7) // 8) for rows, columns in sides if columns > 0)
    stream, there = zlib.decompressobj(), 0
    for kind, content in _chunks(data):
        while kind == b"IDAT" and content and not stream.eof:
            there += len(stream.decompress(content, 1 << 20))
            content = stream.unconsumed_tail
    if there < wanted:
        raise ValueError("truncated: the stream ends before the last row")


def as_rgb(image: ImageFile, alpha: bool = False) -> np.ndarray:
    """A loaded picture as H x W x 3 uint8; with ``alpha`` H x W x 4 where each pixel has its own."""
    mode = "RGBA" if alpha and image.mode in ("RGBA", "LA") else "RGB"
    return np.array(image if image.mode == mode else image.convert(mode))


def _sixteen_bits(image: PngImageFile, data: bytes) -> np.ndarray:
    """The uint16 numbers of a PNG of 16 bits a channel; Pillow keeps their upper halves unless it is plain grey."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        image.load()
        return np.array(image).astype(np.uint16)
    if data[25] == 4:  # grey and alpha: four bytes a pixel, as RGBA has them
        high = _unpacked(data, "RGBA", "RGBA").astype(np.uint16)
        return high[..., 0::2] << 8 | high[..., 1::2]
    high, low = (_unpacked(data, image.mode, f"{image.mode};16{order}").astype(np.uint16) for order in "BL")
    return high << 8 | low


def _without_alpha(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        return values
    return values[..., 0] if values.shape[2] < 3 else values[..., :3]


def _unpacked(data: bytes, mode: str, raw: str) -> np.ndarray:
    with PngImageFile(io.BytesIO(data)) as image:
        image._mode = mode
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        image.load()
        return np.array(image)
