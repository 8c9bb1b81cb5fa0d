"""Writes the kinds of image and mask files that data sets are made of."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (4, 6)


def picture(path: Path, size: tuple[int, int] = SIZE, value: int = 100, mode: str = "RGB") -> Path:
    """An image of one grey value; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value,) * 3).convert(mode).save(path)
    return path


def index_png(path: Path, ids: np.ndarray) -> Path:
    """Ids as grey values, 8 or 16 bit by the array's type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)
    return path


def palette_png(path: Path, ids: np.ndarray, colors: int = 256, bits: int = 8) -> Path:
    """Ids as palette indices, with colours that are nothing like them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8)).convert("P")
    image.putdata(ids.flatten().tolist())
    image.putpalette([channel for i in range(colors) for channel in (255 - i, 7 * i % 256, 90)])
    image.save(path, bits=bits)
    return path


def color_png(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb.astype(np.uint8)).save(path)
    return path


def raw_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """PNGs that Pillow cannot write: 16 bits a channel (H x W x 2, 3 or 4) and grey of less than 8 bits (H x W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = []
        for row in values:
            text = "".join(f"{v:0{bits}b}" for v in row)
            text += "0" * (-len(text) % 8)
            rows.append(bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    kind = {2: 4, 3: 2, 4: 6}[values.shape[2]] if values.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path
