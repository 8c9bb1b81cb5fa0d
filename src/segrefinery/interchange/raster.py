"""Pictures that are written as their rows come: tiled TIFF with its place on earth, and PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segrefinery.core.files import whole_file
from segrefinery.data.decoding import is_tiff_file, open_tiff
from segrefinery.data.png import MAGIC
from segrefinery.data.tiff import GeoTag, need_tifffile
from segrefinery.labels import Color

TILE = 256
"""Sides of the tiles of a TIFF."""
_BIG = 1 << 31
"""Pixels from which a TIFF has 64-bit offsets."""
_NOTE = b"Description"
_SCALE, _TIES, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _POINT = 1025, 2


def write_tiff(
    path: Path,
    strips: Iterable[np.ndarray],
    size: tuple[int, int],
    colors: Sequence[Color] = (),
    geo: Sequence[GeoTag] = (),
    note: str = "",
) -> None:
    """A tiled, compressed TIFF of one band of uint8, whole or not at all.

    Args:
        strips: rows x W each, from top to bottom.
        colors: of the values, for a palette; without them the values are shades of grey.
        geo: tags of a GeoTIFF, for a picture of this size (see ``scaled``).
        note: kept in the file (see ``note_of``).
    """
    palette: dict[str, Any] = {"photometric": "minisblack"}
    if colors:
        shades = np.zeros((3, 256), dtype=np.uint16)
        shades[:, : len(colors)] = np.array(colors, dtype=np.uint16).T * 257
        palette = {"photometric": "palette", "colormap": shades}
    with (
        whole_file(path, durable=False) as file,
        need_tifffile().TiffWriter(file, bigtiff=size[0] * size[1] > _BIG) as tiff,
    ):
        tiff.write(
            _tiles(strips, size[1]),
            shape=size,
            dtype=np.uint8,
            tile=(TILE, TILE),
            compression="zlib",
            compressionargs={"level": 1},
            predictor=False,
            description=note or None,
            metadata=None,
            extratags=[(*tag, True) for tag in geo],
            **palette,
        )


def write_bands(path: Path, image: np.ndarray) -> None:
    """A TIFF of H x W x bands uint8, whole or not at all; of one band it is grey."""
    values = image[..., 0] if image.shape[-1] == 1 else image
    beside = (0,) * (values.shape[-1] - 1) if values.ndim == 3 else None  # bands that are neither colour nor alpha
    with whole_file(path, durable=False) as file:
        need_tifffile().imwrite(
            file, values, photometric="minisblack", planarconfig=beside and "contig", extrasamples=beside,
            compression="zlib", metadata=None,
        )  # fmt: skip


def _tiles(strips: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    for rows in _by(TILE, strips):
        for left in range(0, width, TILE):
            tile = np.zeros((TILE, TILE), dtype=np.uint8)
            part = rows[:, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _by(height: int, strips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in strips of ``height``; the last may be lower."""
    held: list[np.ndarray] = []
    for strip in strips:
        held.append(strip)
        if sum(map(len, held)) >= height:
            rows = np.concatenate(held)
            for top in range(0, len(rows) - height + 1, height):
                yield rows[top : top + height]
            held = [rows[len(rows) // height * height :]]
    rest = np.concatenate(held)
    if len(rest):
        yield rest


def write_png(
    path: Path, strips: Iterable[np.ndarray], size: tuple[int, int], colors: Sequence[Color] = (), note: str = ""
) -> None:
    """A PNG of uint8, whole or not at all; arguments as of ``write_tiff``."""
    with whole_file(path, durable=False) as file:
        file.write(MAGIC + _chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 3 if colors else 0, 0, 0, 0)))
        if colors:
            file.write(_chunk(b"PLTE", bytes(part for color in colors for part in color)))
        if note:
            file.write(_chunk(b"tEXt", _NOTE + b"\0" + note.encode("ascii", "backslashreplace")))
        packer, above = zlib.compressobj(1, strategy=zlib.Z_RLE), np.zeros((1, size[1]), dtype=np.uint8)
        for rows in _by(TILE, strips):
            lines = np.full((len(rows), size[1] + 1), 2, dtype=np.uint8)  # the first byte: less what is above
            lines[:, 1:] = rows - np.concatenate([above, rows[:-1]])
            above = rows[-1:]
            if packed := packer.compress(lines.tobytes()):
                file.write(_chunk(b"IDAT", packed))
        file.write(_chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def note_of(path: Path) -> str:
    """The note that a picture was written with; empty where there is none."""
    if is_tiff_file(path):
        return open_tiff(path, "image", in_parts=True).note
    with path.open("rb") as file:
        start = file.read(4096)
    place = start.find(b"tEXt" + _NOTE + b"\0")
    if place < 0:
        return ""
    length = struct.unpack(">I", start[place - 4 : place])[0]
    return start[place + 4 : place + 4 + length].partition(b"\0")[2].decode("ascii")


def scaled(geo: Sequence[GeoTag], factor: tuple[float, float]) -> tuple[GeoTag, ...]:
    """The tags of a picture whose height and width are ``factor`` times those of the one that they are of."""
    if factor == (1.0, 1.0):
        return tuple(geo)
    down, across = factor
    shift = 0.5 if _counts_from_centres(geo) else 0.0
    moved = []
    for tag in geo:
        value = tag.value
        if tag.code == _SCALE:
            value = (value[0] / across, value[1] / down, *value[2:])
        elif tag.code == _TIES:
            value = list(value)
            for start in range(0, len(value), 6):
                value[start] = (value[start] + shift) * across - shift
                value[start + 1] = (value[start + 1] + shift) * down - shift
        elif tag.code == _TRANSFORMATION:
            value = list(value)
            for row in range(0, 16, 4):
                x, y = value[row] / across, value[row + 1] / down
                # What a pixel of the new picture is moved by, where a place is that of its centre.
                value[row + 3] += shift * (x - value[row] + y - value[row + 1])
                value[row], value[row + 1] = x, y
        moved.append(tag._replace(value=tuple(value) if isinstance(value, list) else value))
    return tuple(moved)


def _counts_from_centres(geo: Sequence[GeoTag]) -> bool:
    """Whether places are those of the pixels' centres, and not of their upper left corners."""
    keys = next((tag.value for tag in geo if tag.code == _KEYS), ())
    return any(keys[at] == _RASTER_TYPE and keys[at + 3] == _POINT for at in range(4, len(keys) - 3, 4))
