"""Street scenes as a data set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import seed_of
from segrefinery.labels import LabelSpace

from .canvas import Canvas
from .classes import CLASSES, COLORS
from .dice import Dice
from .layout import make_world
from .looks import LOOKS, develop
from .world import World

if TYPE_CHECKING:
    from torch import Tensor

COUNTS = {"train": 600, "test": 200}
MOST = 10_000_000
SIZE = (128, 256)
VERSION = 3


class SceneDataset:
    """Street scenes drawn from a seed, with exact masks.

    Args:
        look: ``day``, ``night``, ``fog`` or ``rain``.
        split: ``train`` or ``test``; they show different worlds.
        count: number of scenes (600 and 200 by default); scene i does not depend on it.
        size: (height, width) in pixels, 128 x 256 by default; the world does not depend on it.
        seed: of the worlds.
        paired: draw the same worlds in every look. By default each look has its own, as real data sets do:
            a target is never the source seen again under another light.

    Raises:
        SegRefineryError: for an unknown look or split, or a size or count that cannot be drawn.
    """

    has_labels = True
    space = LabelSpace("scenes", CLASSES, COLORS)

    def __init__(
        self,
        look: str,
        split: str = "train",
        count: int | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        paired: bool = False,
    ):
        if look not in LOOKS:
            raise SegRefineryError(f"scenes: there is no look {look!r}; choose from {', '.join(LOOKS)}")
        if split not in COUNTS:
            raise SegRefineryError(f"scenes: there is no split {split!r}; choose from {', '.join(COUNTS)}")
        self.look, self.split, self.seed, self.paired = look, split, seed, paired
        self.count = COUNTS[split] if count is None else count
        self.size = SIZE if size is None else size
        if not 1 <= self.count <= MOST:
            raise SegRefineryError(f"scenes: a count of {self.count} images; ask for 1 to {MOST:,}")
        if min(self.size) < 8:
            raise SegRefineryError(f"scenes: {self.size[0]} x {self.size[1]} pixels are too few; use at least 8 x 8")
        self.reference = f"scenes:{look}@{split}"
        self._drawn: OrderedDict[int, tuple[World, Canvas]] = OrderedDict()

    def __len__(self) -> int:
        return self.count

    def content_key(self) -> Iterator[str]:
        """What the pixels depend on; the last number changes whenever the drawing does."""
        yield f"scenes {self.look} {self.split} {self.count} {self.size} {self.seed} {self.paired} {VERSION}"

    def name(self, index: int) -> str:
        return f"{self.look}-{self.split}-{self._check(index):05d}"

    def image(self, index: int) -> Tensor:
        """uint8, 3 x H x W."""
        import torch

        world, canvas = self._scene(index)
        dice = Dice(seed_of("scenes", "sensor", self.seed, self.look, self.split, index))
        pixels = develop(LOOKS[self.look](world, canvas, dice), self.look, dice)
        return torch.from_numpy(pixels)

    def label(self, index: int) -> Tensor:
        """int64, H x W, ids of ``space``."""
        import torch

        return torch.from_numpy(self._scene(index)[1].label.astype(np.int64))

    def _check(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return index

    def _scene(self, index: int) -> tuple[World, Canvas]:
        """Draws a scene, or finds it among the last few, so that an image and its label cost one drawing."""
        if self._check(index) in self._drawn:
            self._drawn.move_to_end(index)
            return self._drawn[index]
        worlds = "paired" if self.paired else self.look
        world = make_world(seed_of("scenes", "world", self.seed, worlds, self.split, index))
        self._drawn[index] = world, world.draw(*self.size)
        while len(self._drawn) > 4:
            self._drawn.popitem(last=False)
        return self._drawn[index]
