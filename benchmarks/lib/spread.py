"""Some images of a data set, spread evenly over it: frames of one drive resemble each other."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Spread:
    """At most ``images`` of a data set's images; in all else the data set itself."""

    def __init__(self, dataset: Any, images: int) -> None:
        self.dataset = dataset
        count = min(images, len(dataset))
        self.places = [place * len(dataset) // count for place in range(count)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return self.dataset.name(self.places[index])

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return self.dataset.image(self.places[index])

    def label(self, index: int) -> Tensor:
        """Integer H x W, 255 where ignored."""
        return self.dataset.label(self.places[index])
