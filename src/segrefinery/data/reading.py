"""How stored numbers become the 8-bit colours that networks see: which bands, and which range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from segrefinery.data.faults import DataError

AT_ONCE = 1 << 20
"""Numbers that are looked up at once; their places take eight bytes each."""


@dataclass(frozen=True)
class Reading:
    """What a data set says of its pictures. Without it, whole numbers of 8 and 16 bits are read by their range."""

    bits: int | None = None
    """How many of 16 bits are used. Without it, an image that uses a quarter of their range or less is refused."""
    range: tuple[float, float] | None = None
    """The numbers that are black and white; what lies outside is cut."""
    percentile: tuple[float, float] | None = None
    """The shares in percent of each picture's pixels, band by band, that are black below and white above."""
    bands: tuple[int, ...] | None = None
    """The bands that are seen, counted from 1; of three or more the first are red, green and blue."""
    upright: bool = True
    """Whether a JPEG is turned as its EXIF mark says."""
    ends: np.ndarray | None = field(default=None, compare=False, repr=False)
    """What ``measured`` found: 2 x bands, the numbers that are black and white."""

    @property
    def count(self) -> int:
        """How many bands an image has that is read so."""
        return 3 if self.bands is None else len(self.bands)

    def measured(self, path: Path, values: np.ndarray) -> Reading:
        """The reading with the ends that ``percentile`` asks for, of a picture's values H x W or H x W x bands."""
        return replace(self, ends=_percentiles(_chosen(path, values, self.bands), self.percentile))


def colors_of(path: Path, values: np.ndarray, reading: Reading) -> np.ndarray:
    """Stored numbers, H x W or H x W x bands, as uint8: H x W of grey, or H x W x bands.

    Raises:
        DataError: bands are missing or have to be chosen, or their range is not known.
    """
    values = _chosen(path, values, reading.bands)
    if reading.range is not None:
        return _scaled(values, np.array(reading.range))
    if reading.percentile is not None:
        return _scaled(values, _percentiles(values, reading.percentile) if reading.ends is None else reading.ends)
    if values.dtype == np.uint8:
        return values
    if values.dtype != np.uint16:
        raise DataError(
            path,
            "image",
            f"holds {values.dtype} numbers, {np.nanmin(values):g} to {np.nanmax(values):g}, of no stated range",
            "give in a dataset.yaml which are black and white, for instance range: [0, 4095], or percentile: [2, 98]",
        )
    return _eight_bits(path, values, reading.bits)


def _chosen(path: Path, values: np.ndarray, bands: tuple[int, ...] | None) -> np.ndarray:
    count = values.shape[2] if values.ndim == 3 else 1
    if bands is not None:
        if max(bands) > count:
            problem = f"has {count} bands, band {max(bands)} is asked for"
            raise DataError(path, "image", problem, "correct bands in dataset.yaml, or remove the image")
        as_stored = values.ndim == 2 or bands == tuple(range(1, count + 1))
        return values if as_stored else values[..., [band - 1 for band in bands]]
    if count in (1, 3):
        return values
    problem = f"has {count} bands, and nothing says which are red, green and blue"
    raise DataError(path, "image", problem, "say it in a dataset.yaml, for instance bands: [3, 2, 1]")


def _percentiles(values: np.ndarray, shares: tuple[float, float] | None) -> np.ndarray:
    """2 x bands numbers; the largest there are for a picture of none, which makes it black."""
    assert shares is not None
    known = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(known).all():
        return np.full((2, *values.shape[2:]), np.finfo(np.float32).max)
    return np.nanpercentile(known, shares, axis=(0, 1))


def _scaled(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The first of ``ends`` (2, or 2 x bands) and below, and what is no number, to 0; the second and above to 255."""
    if ends.ndim == 2 and _few_numbers(values):
        return np.stack([_scaled(values[..., band], each) for band, each in enumerate(ends.T)], axis=-1)
    return _looked_up(values, partial(_scaled_one_by_one, ends=ends))


def _scaled_one_by_one(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    low, high = ends.astype(np.float32)
    share = (values.astype(np.float32) - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.rint(np.nan_to_num(np.clip(share, 0, 1)) * 255).astype(np.uint8)


def _eight_bits(path: Path, values: np.ndarray, bits: int | None) -> np.ndarray:
    peak, most = int(values.max()), (1 << (bits or 16)) - 1
    if bits is None and 0 < peak < 1 << 14:
        raise DataError(
            path,
            "image",
            f"has 16 bits, but its values end at {peak}: it would be read almost black",
            "give in a dataset.yaml how many bits are used, for instance bits: 12 (or bits: 16 if it is that dark), or "
            "their range",
        )
    if peak > most:
        raise DataError(path, "image", f"holds the value {peak}, more than {bits} bits", "correct bits in dataset.yaml")
    return _looked_up(values, lambda numbers: ((numbers.astype(np.int32) * 255 + most // 2) // most).astype(np.uint8))


def _few_numbers(values: np.ndarray) -> bool:
    """Whether it takes longer to convert values than every number that they may be."""
    return values.dtype in (np.uint8, np.uint16) and values.size > 1 << 17


def _looked_up(values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The values as ``convert`` changes each to uint8."""
    if not _few_numbers(values):
        return convert(values)
    table = convert(np.arange(np.iinfo(values.dtype).max + 1, dtype=values.dtype))
    converted = np.empty(values.shape, dtype=np.uint8)
    lines = max(1, AT_ONCE * len(values) // values.size)
    for top in range(0, len(values), lines):
        converted[top : top + lines] = table.take(values[top : top + lines])
    return converted
