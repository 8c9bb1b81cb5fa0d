"""The first images of a data set."""

from __future__ import annotations

from typing import Any


class First:
    """The first images of a data set, at most so many; in all else the data set itself."""

    def __init__(self, dataset: Any, images: int) -> None:
        self.dataset, self.images = dataset, images

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return min(self.images, len(self.dataset))
