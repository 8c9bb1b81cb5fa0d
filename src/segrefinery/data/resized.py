"""Rows of a picture at another size, without the picture whole in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from segrefinery.data.strips import AT_ONCE, Picture, TiffRows, WholePicture
from segrefinery.data.transforms import resize_image


class Resized:
    """Rows of a picture at another size, asked from top to bottom; what was read is kept while it may be needed.

    Bilinear and antialiased as ``resize_image`` does it, but for roundings of one grey level.
    """

    def __init__(self, picture: Picture, size: tuple[int, int]) -> None:
        self.picture, self.size = picture, size
        self._groups: dict[int, Tensor] = {}
        self._small = resize_image(picture.image, size) if isinstance(picture, WholePicture) else None

    def rows(self, top: int, bottom: int) -> Tensor:
        """uint8, bands x (bottom - top) x W; ``top`` never lies above an earlier one."""
        if self._small is not None:
            return self._small[:, top:bottom]
        # Rows are made in the same groups wherever one begins, so that they are the same when a run is resumed.
        step = self._lines
        first, last = top // step, (bottom - 1) // step
        for number in [number for number in self._groups if number < first]:
            del self._groups[number]
        for number in range(first, last + 1):
            if number not in self._groups:
                self._groups[number] = self._read(number * step, min((number + 1) * step, self.size[0]))
        held = [(self._groups[number], number * step) for number in range(first, last + 1)]
        parts = [group[:, max(top - begin, 0) : bottom - begin] for group, begin in held]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @property
    def _lines(self) -> int:
        """Rows of the result that are made at once; where nothing is resized, those of whole tiles."""
        height, width = self.picture.size
        most = max(1, AT_ONCE * self.size[0] // (height * width))
        tile = self.picture.rows_at_once if isinstance(self.picture, TiffRows) else 1
        return most if self.size != (height, width) else max(most // tile, 1) * tile

    def _read(self, top: int, bottom: int) -> Tensor:
        height, width = self.picture.size
        if self.size == (height, width):
            return self.picture.rows(top, bottom)
        scale = height / self.size[0]
        reach = max(scale, 1.0)
        centres = (torch.arange(top, bottom) + 0.5) * scale
        first = max(0, int(float(centres[0]) - reach))
        last = min(height, int(float(centres[-1]) + reach) + 1)
        lines = resize_image(self.picture.rows(first, last), (last - first, self.size[1]))
        places = torch.arange(first, last) + 0.5
        weights = (1 - (places - centres[:, None]).abs() / reach).clamp(min=0)
        weights /= weights.sum(dim=1, keepdim=True)
        return torch.einsum("rs,csw->crw", weights, lines.float()).round().to(torch.uint8)
