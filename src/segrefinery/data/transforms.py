"""From a decoded image to what a network reads: aspect-true resize, random scaled crop, flip, colour, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.lazy import OnUse
from segrefinery.data.photometric import (
    denormalize,
    gaussian_blur,
    jitter_colors,
    normalize,
    uniform,
)
from segrefinery.data.settings import DataSettings
from segrefinery.data.strips import Picture
from segrefinery.labels import IGNORE

__all__ = [
    "DataSettings",
    "TrainTransform",
    "View",
    "denormalize",
    "evaluation_size",
    "normalize",
    "resize_for_evaluation",
    "resize_image",
    "resize_map",
]

T: Any = OnUse("torchvision.transforms.v2.functional")
TRIES = 10


class View(NamedTuple):
    """One training crop: image 3 x h x w float; or None: label h x w int64 (255 ignored), weight h x w in [0, 1],
    and the same crop of the image's translation, 3 x h x w float."""

    image: Tensor
    label: Tensor | None = None
    weight: Tensor | None = None
    translated: Tensor | None = None


class _Window(NamedTuple):
    """A window of the source image (top, left, height, width) and the size it is resized to."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]


class TrainTransform:
    """Random scaled crop, flip, colour jitter and normalisation of one image with the maps that belong to it.

    The window that the crop shows is cut from the source image first and resized once, so that resize, random scale and
    crop cost what the crop costs. The window has whole source pixels, so its scale is off by up to half of one over its
    length; image and maps share it. What an image is too small to fill is padded below and to the right: the mean
    colour, label 255, weight 0.
    """

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings

    def __call__(
        self,
        image: Tensor | Picture,
        label: Tensor | None,
        generator: torch.Generator,
        wanted_class: int | None = None,
        weight: Tensor | None = None,
        translated: Tensor | None = None,
    ) -> View:
        """Draw one view; the same generator state gives the same view.

        Args:
            image: uint8 3 x H x W, or a picture, of which the part is read that the view shows.
            label: integer H x W, 255 ignored, or None.
            generator: the only source of randomness.
            wanted_class: draw again, up to ten times, until the crop has more than ``rare_crop_ratio *
                rare_min_pixels`` of its pixels; otherwise the crop with most of them is kept.
            weight: H x W, float in [0, 1] or uint8 (255 = 1), or None.
            translated: uint8 3 x H x W, the image as another tool has translated it, or None. Its colours are left
                alone: it is to look like the target, whose images get no jitter either.

        Raises:
            ValueError: a map or a translation of another size than its image.
        """
        plane = None if translated is None else translated[0]
        for name, aligned in (("label", label), ("weight", weight), ("translated", plane)):
            if aligned is not None and tuple(aligned.shape) != size_of(image):
                raise ValueError(f"{name} is {tuple(aligned.shape)}, its image {size_of(image)}")
        window = self._choose(size_of(image), label, generator, wanted_class)
        flip = uniform(0, 1, generator) < self.settings.flip
        picture = self._colors(self._cut(image, window, bilinear=True), generator)
        return View(
            self._fit(self._normalized(picture), 0.0, flip),
            None if label is None else self._fit(self._cut(label, window).long(), IGNORE, flip),
            None if weight is None else self._fit(_unit(self._cut(weight, window)), 0.0, flip),
            None
            if translated is None
            else self._fit(self._normalized(self._cut(translated, window, bilinear=True)), 0.0, flip),
        )

    def _choose(
        self, size: tuple[int, int], label: Tensor | None, generator: torch.Generator, wanted_class: int | None
    ) -> _Window:
        """The first window that fulfils the wishes on its classes, or the best of ten."""
        limit = self.settings.max_class_share
        if label is None or (wanted_class is None and limit >= 1):
            return self._draw(size, generator)
        needed = -1.0
        if wanted_class is not None:
            needed = self.settings.rare_crop_ratio * self.settings.rare_min_pixels
        tried: list[tuple[float, float, _Window]] = []
        for _ in range(TRIES):
            window = self._draw(size, generator)
            shown = self._cut(label, window)
            counts = torch.bincount(shown.flatten().long(), minlength=IGNORE + 1)[:IGNORE]
            pixels = float(counts[wanted_class]) if wanted_class is not None else 0.0
            share = float(counts.max()) / max(float(counts.sum()), 1.0)
            if pixels > needed and share <= limit:
                return window
            tried.append((pixels, -share, window))
        return max(tried, key=lambda one: one[:2])[-1]

    def _draw(self, size: tuple[int, int], generator: torch.Generator) -> _Window:
        zoom = _zoom(size, self.settings.short_side) * uniform(*self.settings.scale, generator)
        starts, extents, outputs = [], [], []
        for length, crop in zip(size, self.settings.crop, strict=True):
            output = min(crop, max(1, round(length * zoom)))
            extent = length if output < crop else min(length, max(1, round(crop / zoom)))
            starts.append(int(uniform(0, length - extent + 1, generator)))
            extents.append(extent)
            outputs.append(output)
        return _Window((starts[0], starts[1], extents[0], extents[1]), (outputs[0], outputs[1]))

    def _cut(self, source: Tensor | Picture, window: _Window, bilinear: bool = False) -> Tensor:
        top, left, height, width = window.box
        if isinstance(source, Tensor):
            part = source[..., top : top + height, left : left + width]
        else:
            part = source.part(top, left, top + height, left + width)
        return resize_image(part, window.size) if bilinear else resize_map(part, window.size)

    def _colors(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if not (self.settings.photometric or self.settings.blur):
            return image
        image = image.float().div(255)
        if self.settings.photometric:
            image = jitter_colors(image, self.settings.photometric, generator)
        if uniform(0, 1, generator) < self.settings.blur:
            image = gaussian_blur(image, uniform(0.15, 1.15, generator))
        return image

    def _normalized(self, image: Tensor) -> Tensor:
        return normalize(image, *self.settings.normalization)

    def _fit(self, cut: Tensor, fill: float, flip: bool) -> Tensor:
        cut = cut.flip(-1) if flip else cut
        height, width = self.settings.crop
        if cut.shape[-2:] != (height, width):
            cut = F.pad(cut, (0, width - cut.shape[-1], 0, height - cut.shape[-2]), value=fill)
        return cut.contiguous()


def size_of(image: Tensor | Picture) -> tuple[int, int]:
    """Height and width."""
    return (image.shape[-2], image.shape[-1]) if isinstance(image, Tensor) else image.size


def resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """A uint8 image 3 x H x W at another size: bilinear, antialiased."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return T.resize(image, list(size), antialias=True)


def resize_map(values: Tensor, size: Sequence[int]) -> Tensor:
    """An H x W label or weight map at another size: the nearest pixel, centre to centre; no new values appear."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    rows, columns = (_nearest(old, new).to(values.device) for old, new in zip(values.shape[-2:], size, strict=True))
    return values.index_select(-2, rows).index_select(-1, columns)


def read_size(size: Sequence[int], settings: DataSettings) -> tuple[int, int]:
    """Height and width of a whole image in training, before it is scaled at random and cropped."""
    return _resized(size, settings.short_side)


def evaluation_size(size: Sequence[int], settings: DataSettings) -> tuple[int, int]:
    """Height and width of a whole image after the aspect-true resize."""
    return _resized(size, settings.evaluation_short_side or settings.short_side)


def resize_for_evaluation(image: Tensor, settings: DataSettings) -> Tensor:
    """The whole uint8 image 3 x H x W, resized to ``short_side`` with its aspect kept, as normalised float."""
    resized = resize_image(image, evaluation_size(image.shape[-2:], settings))
    return normalize(resized, *settings.normalization).contiguous()


def _resized(size: Sequence[int], short_side: int | None) -> tuple[int, int]:
    zoom = _zoom(size, short_side)
    return max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))


def _zoom(size: Sequence[int], short_side: int | None) -> float:
    return short_side / min(size) if short_side else 1.0


def _nearest(old: int, new: int) -> Tensor:
    """The source pixel under the centre of each of ``new`` pixels."""
    return ((torch.arange(new) * 2 + 1) * old).div(2 * new, rounding_mode="floor")


def _unit(weight: Tensor) -> Tensor:
    return weight.float().div(255) if weight.dtype == torch.uint8 else weight.float()
