"""Noise and filters of elementwise float32 operations: no sums, no exp or sin, the same bits everywhere."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]  # always float32; Python numbers leave an array's type as it is

BANK_SIZE = 256


def _smooth_cyclic(values: Plane) -> Plane:
    for axis in (0, 1):
        values = (np.roll(values, 1, axis) + values + values + np.roll(values, -1, axis)) * 0.25
    return values


@cache
def noise_bank() -> Plane:
    """A tileable 256 x 256 map of fractal noise in [0, 1], from coarse to fine."""
    rng = np.random.Generator(np.random.PCG64(20))
    bank = np.zeros((BANK_SIZE, BANK_SIZE), np.float32)
    for octave, cells in enumerate((8, 16, 32, 64, 128, 256)):
        grid = rng.integers(0, 1 << 16, (cells, cells)).astype(np.float32) / (1 << 16)
        while grid.shape[0] < BANK_SIZE:
            grid = _smooth_cyclic(grid.repeat(2, 0).repeat(2, 1))
        bank += grid * ((0.5, 0.3, 0.25, 0.2, 0.15, 0.12)[octave])
    low, high = bank.min(), bank.max()
    return (bank - low) / (high - low)


@cache
def white_bank() -> Plane:
    """256 x 256 independent numbers in [0, 1): one decision for each window, drop or tile."""
    rng = np.random.Generator(np.random.PCG64(21))
    return rng.integers(0, 1 << 16, (BANK_SIZE, BANK_SIZE)).astype(np.float32) / (1 << 16)


def clamp(values: Plane, low: float = 0.0, high: float = 1.0) -> Plane:
    """``np.clip`` without its overhead, which is large for small windows."""
    return np.minimum(np.maximum(values, low), high)


def lookup(bank: Plane, y: Plane, x: Plane) -> Plane:
    """Nearest entries of a bank at real coordinates that broadcast against each other; wraps around."""
    rows = np.clip(y, -1e6, 1e6).astype(np.int32) & (BANK_SIZE - 1)
    cols = np.clip(x, -1e6, 1e6).astype(np.int32) & (BANK_SIZE - 1)
    return bank[rows, cols]


def decay(x: Plane) -> Plane:
    """Falls from 1 to 0 much like exp(-x) for x >= 0, by (1 + x / 8) ** -8."""
    y = 1 / (1 + x * 0.125)
    y = y * y
    y = y * y
    return y * y


def smooth(values: Plane) -> Plane:
    """One pass of the kernel [1 2 1] / 4 over the last two axes, edges repeated."""
    for axis in (-2, -1):
        v = np.moveaxis(values, axis, 0)
        out = v + v
        out[1:] += v[:-1]
        out[:1] += v[:1]
        out[:-1] += v[1:]
        out[-1:] += v[-1:]
        values = np.moveaxis(out * 0.25, 0, axis)
    return values


def halve(values: Plane) -> Plane:
    """Half the size of the last two axes (rounded up) by averaging 2 x 2 pixels."""
    height, width = values.shape[-2:]
    if height % 2 or width % 2:
        values = np.concatenate([values, values[..., -1:, :]], -2) if height % 2 else values
        values = np.concatenate([values, values[..., -1:]], -1) if width % 2 else values
    rows = values[..., ::2, :] + values[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) * 0.25


def double(values: Plane, height: int, width: int) -> Plane:
    """The way back from ``halve``, smoothed."""
    return smooth(values.repeat(2, -2).repeat(2, -1)[..., :height, :width])


def bloom(light: Plane, spread: tuple[float, ...]) -> Plane:
    """Light scattered in the lens: a weighted sum of blurs, each twice as wide as the last."""
    levels = [light]
    for _ in spread:
        light = smooth(halve(light))
        levels.append(light)
    glow = levels.pop() * spread[-1]
    for level, weight in zip(levels[::-1], (*spread[-2::-1], 0.0)):
        glow = double(glow, *level.shape[-2:])
        if weight:
            glow += level * weight
    return glow
