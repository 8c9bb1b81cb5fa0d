"""Random choices of a world: plain double arithmetic on raw random bits, so that every machine draws the same world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Numbers that depend on the seed alone."""

    def __init__(self, seed: int):
        self.rng = np.random.Generator(np.random.PCG64(seed))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        return float(self.rng.random()) < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(float(self.rng.random()) * len(options))]

    def sign(self) -> int:
        return 1 if self.chance(0.5) else -1

    def near(self, color: tuple[float, float, float], spread: float = 0.06) -> tuple[float, float, float]:
        """A colour close to the given one: a change of brightness and a smaller one of hue."""
        light = self.between(-spread, spread)
        red, green, blue = (min(1.0, max(0.0, c + light + self.between(-spread, spread) / 2)) for c in color)
        return red, green, blue
