"""Label Studio's run-length code of a brush mask.

A bit stream: 32 bits, the number of values (four a pixel, the mask repeated in R, G, B and alpha); 5 bits, the word
size less 1; four times 4 bits, the widths of the four length fields less 1. Then for every run: one bit (1: the value
is repeated, 0: the values follow one by one), two bits that pick the length field, the length less 1, the value(s).
"""

from __future__ import annotations

import numpy as np

WORD = 8
WIDTHS = (3, 4, 8, 16)


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of an H x W bool mask."""
    if mask.ndim != 2:
        raise ValueError(f"mask must be H x W, got {mask.shape}")
    flat = np.asarray(mask, dtype=bool).ravel()
    bits = [f"{4 * flat.size:032b}", f"{WORD - 1:05b}", *(f"{width - 1:04b}" for width in WIDTHS)]
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges])
    lengths = 4 * np.diff(np.concatenate([starts, [flat.size]]))
    longest = 1 << WIDTHS[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        while length > 0:
            part = min(length, longest)
            field = next(i for i, width in enumerate(WIDTHS) if part <= 1 << width)
            bits.append(f"1{field:02b}{part - 1:0{WIDTHS[field]}b}{value}")
            length -= part
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)]


def decode_brush(code: list[int], height: int, width: int) -> np.ndarray:
    """H x W bool mask: where alpha is not 0.

    Raises:
        ValueError: the code is not of an image of this size, or is cut short.
    """
    stream = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        if place + size > len(stream):
            raise ValueError("the brush code is cut short")
        place += size
        return int(stream[place - size : place], 2)

    total, word = read(32), read(5) + 1
    if total != 4 * height * width:
        raise ValueError(f"the brush code holds {total // 4} pixels, the image {height} x {width}")
    widths = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.uint8)
    done = 0
    while done < total:
        repeated = read(1)
        end = done + 1 + read(widths[read(2)])
        if repeated:
            values[done:end] = read(word)
        else:
            values[done:end] = [read(word) for _ in range(end - done)]
        done = end
    return values.reshape(height, width, 4)[..., 3] > 0
