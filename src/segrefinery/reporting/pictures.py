"""Tensors as pictures inside the page: small, in the classes' colours, as data URLs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from segrefinery.core.pixels import shown
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.reporting.markup import Markup, element

LONG_SIDE = 560
"""Longest side of a picture, in pixels: sharp enough for a column, small enough for a file with dozens of them."""
DARK, MIDDLE, BRIGHT = (16, 24, 62), (38, 142, 140), (250, 232, 120)
"""Low, middle and high values of a heat map: distinguishable without colour vision and in grey print."""


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a picture of that size is embedded; never enlarged."""
    factor = min(1.0, LONG_SIDE / max(size))
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def photo(image: Tensor, alt: str, mark: tuple[float, float] | None = None, **attributes: Any) -> Markup:
    """uint8 bands x H x W as JPEG; ``mark`` circles a place, given as (x, y) in fractions of the image."""
    pixels = shown(image).float().unsqueeze(0)
    size = shown_size((image.shape[-2], image.shape[-1]))
    if tuple(image.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    array = pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    drawn = Image.fromarray(array)
    if mark is not None:
        x, y, radius = mark[0] * size[1], mark[1] * size[0], max(size) / 40
        for color, width in (("black", 4), ("white", 2)):
            ImageDraw.Draw(drawn).circle((x, y), radius, outline=color, width=width)
    return picture(drawn, alt, "JPEG", **attributes)


def label_map(label: Tensor, space: LabelSpace, alt: str, **attributes: Any) -> Markup:
    """H x W class ids as a palette PNG in the classes' colours; ignored pixels are transparent."""
    size = shown_size((label.shape[-2], label.shape[-1]))
    small = F.interpolate(label[None, None].float(), size, mode="nearest-exact")[0, 0].byte().cpu().numpy()
    image = Image.fromarray(small, mode="P")
    palette = [channel for color in space.colors for channel in color]
    image.putpalette(palette + [0] * (768 - len(palette)))
    return picture(image, alt, "PNG", transparency=IGNORE, **attributes)


def heat_map(values: Tensor, alt: str, **attributes: Any) -> Markup:
    """H x W values in [0, 1], dark (0) to bright (1); NaN is transparent."""
    return picture(Image.fromarray(heat(values), mode="RGBA"), alt, "PNG", **attributes)


def heat(values: Tensor) -> np.ndarray:
    """H x W in [0, 1] -> H x W x 4 uint8."""
    size = shown_size((values.shape[-2], values.shape[-1]))
    small = F.interpolate(values[None, None].float(), size, mode="nearest-exact")[0, 0].cpu()
    known = small.isfinite()
    small = small.nan_to_num(0.0).clamp(0, 1)[..., None]
    low, middle, high = (torch.tensor(color, dtype=torch.float32) for color in (DARK, MIDDLE, BRIGHT))
    color = torch.where(small < 0.5, low + 2 * small * (middle - low), middle + (2 * small - 1) * (high - middle))
    return torch.cat([color, 255.0 * known[..., None]], dim=-1).round().byte().numpy()


def scale_bar(low: str, high: str) -> Markup:
    """What the colours of a heat map mean."""
    stops = ", ".join(f"rgb{color}" for color in (DARK, MIDDLE, BRIGHT))
    ramp = element("i", style=f"background: linear-gradient(90deg, {stops})")
    return element("span", low, ramp, high, class_="scale")


def picture(image: Image.Image, alt: str, kind: str, transparency: int | None = None, **attributes: Any) -> Markup:
    """An ``<img>`` with the picture inside."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": 82, "optimize": True} if kind == "JPEG" else {"optimize": True}
    if transparency is not None:
        options["transparency"] = transparency
    image.save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    source = f"data:image/{kind.lower()};base64,{data}"
    return element("img", src=source, alt=alt, width=image.width, height=image.height, **attributes)
