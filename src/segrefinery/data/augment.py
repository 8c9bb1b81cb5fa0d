"""Strong views: what the student sees instead of the clean target image.

``strong_view`` changes colour and sharpness only (DACS, DAFormer, HRDA, MIC). ``affine_strong_view`` also moves, cuts
and flips (RandAugment and Cutout, as in CPSL and ProDA) and says by a ``Warp`` how to move any map alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.lazy import OnUse
from segrefinery.data.photometric import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PerBand,
    denormalize,
    gaussian_blur,
    jitter_colors,
    normalize,
    on_colors,
    uniform,
)
from segrefinery.data.settings import AffineViewSettings, StrongViewSettings

GREY = 127 / 255
T: Any = OnUse("torchvision.transforms.v2.functional")


def strong_view(
    images: Tensor,
    generators: Sequence[torch.Generator],
    settings: StrongViewSettings | None = None,
    mean: PerBand = IMAGENET_MEAN,
    std: PerBand = IMAGENET_STD,
) -> Tensor:
    """Jitter and blur each image on its own; the geometry stays.

    Args:
        images: B x 3 x H x W, normalised by ``mean`` and ``std``.
        generators: one an image.
        settings: strengths and probabilities.

    Returns:
        B x 3 x H x W, normalised, without gradient.
    """
    settings = settings or StrongViewSettings()
    _one_each(images, generators)
    coins = [(uniform(0, 1, generator), uniform(0, 1, generator)) for generator in generators]
    if settings.shared_coins:
        coins = [coins[0]] * len(coins)
    views = list(denormalize(images.detach(), mean, std))
    for place, (generator, (jitter_coin, blur_coin)) in enumerate(zip(generators, coins, strict=True)):
        if jitter_coin < settings.jitter_probability:
            views[place] = jitter_colors(views[place], settings.jitter, generator)
        if blur_coin < settings.blur_probability:
            taps = round(settings.kernel * min(images.shape[-2:]))
            views[place] = gaussian_blur(views[place], uniform(*settings.sigma, generator), taps)
    return normalize(torch.stack(views), mean, std)


@dataclass
class Warp:
    """How a strong view moved each image: enough to move any map of the same images alike, at any resolution.

    Attributes:
        matrix: B x 2 x 3, from places in the view to places in the image, in the units of ``F.affine_grid`` ([-1, 1]
            from edge to edge).
        hole: B x 4, the cut-out box (top, left, bottom, right) in the view, in fractions of its sides.
    """

    matrix: Tensor
    hole: Tensor


def affine_strong_view(
    images: Tensor,
    generators: Sequence[torch.Generator],
    settings: AffineViewSettings | None = None,
    mean: PerBand = IMAGENET_MEAN,
    std: PerBand = IMAGENET_STD,
) -> tuple[Tensor, Warp]:
    """A view with RandAugment and Cutout; flips, shears, shifts and turns are composed into one affine map per image.

    Args:
        images: B x 3 x H x W, normalised by ``mean`` and ``std``.
        generators: one an image.

    Returns:
        B x 3 x H x W, normalised (places it does not show are grey 127), and the warp for ``apply_affine``.
    """
    settings = settings or AffineViewSettings()
    _one_each(images, generators)
    height, width = images.shape[-2:]
    matrices, holes, views = [], [], []
    for image, generator in zip(denormalize(images.detach(), mean, std), generators, strict=True):
        flipped = uniform(0, 1, generator) < settings.flip
        forward = _scaling(-1.0, 1.0) if flipped else _scaling(1.0, 1.0)
        if uniform(0, 1, generator) < settings.blur:
            image = gaussian_blur(image, 1.0)
        if uniform(0, 1, generator) < settings.jitter_probability:
            image = jitter_colors(image, settings.jitter, generator)
        for _ in range(settings.operations):
            name = POOL[int(uniform(0, len(POOL), generator))]
            strength = int(uniform(1, 10, generator)) / 10
            sign = 1.0 if uniform(0, 1, generator) < 0.5 else -1.0
            if uniform(0, 1, generator) >= settings.operation_probability:
                continue
            if name in GEOMETRY:
                forward = _geometry(name, strength * sign, height / width) @ forward
            else:
                image = on_colors(lambda colors, name=name, strength=strength: _color(name, colors, strength), image)
        views.append(image)
        matrices.append(torch.linalg.inv(forward)[:2])
        holes.append(_hole(settings.cutout, height, width, generator))
    moves = (torch.stack(matrices).float(), torch.tensor(holes))
    warp = Warp(*(each.to(images.device, non_blocking=True) for each in moves))
    moved, _ = apply_affine(torch.stack(views), warp, fill=GREY)
    return normalize(moved, mean, std), warp


def apply_affine(
    maps: Tensor,
    warp: Warp,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    fill: float = 0.0,
    aligned: bool = False,
) -> tuple[Tensor, Tensor]:
    """Move maps as a strong view moved its images.

    Args:
        maps: B x K x h x w float, or B x h x w of any type, over the same images at any resolution.
        warp: from ``affine_strong_view``.
        mode: ``nearest`` for labels.
        fill: value of the places that show nothing of the image (255 for labels).
        aligned: whether the outermost cells of the maps lie in the images' corner pixels.

    Returns:
        The moved maps, and uncovered B x h x w bool: True where the view lies outside the image or is cut out.
    """
    planes = maps if maps.ndim == 4 else maps[:, None]
    height, width = planes.shape[-2:]
    # The grid is a matrix product, and in bfloat16 its places are off by pixels, differently at each resolution.
    with torch.autocast(maps.device.type, enabled=False):
        grid = F.affine_grid(warp.matrix, [len(planes), 1, height, width], align_corners=aligned)
        moved = F.grid_sample(planes.float(), grid, mode=mode, padding_mode="border", align_corners=aligned)
    top, left, bottom, right = (edge.view(-1, 1, 1) for edge in warp.hole.unbind(dim=1))
    y = _centres(height, aligned, maps.device)[None, :, None]
    x = _centres(width, aligned, maps.device)[None, None, :]
    cut = (
        (y >= top.view(-1, 1, 1))
        & (y < bottom.view(-1, 1, 1))
        & (x >= left.view(-1, 1, 1))
        & (x < right.view(-1, 1, 1))
    )
    uncovered = cut | (grid.abs() > 1 + 1e-5).any(dim=-1)
    moved = moved.masked_fill(uncovered[:, None], fill).to(maps.dtype)
    return (moved if maps.ndim == 4 else moved[:, 0]), uncovered


def _centres(cells: int, aligned: bool, device: torch.device) -> Tensor:
    """Where cells lie along an axis, in fractions of it."""
    if aligned and cells > 1:
        return torch.linspace(0, 1, cells, device=device)
    return (torch.arange(cells, device=device) + 0.5) / cells


GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
POOL = (
    *GEOMETRY,
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "identity",
    "posterize",
    "sharpness",
    "solarize",
)


def _geometry(name: str, strength: float, aspect: float) -> Tensor:
    """3 x 3 from image to view in [-1, 1] units; turns up to 30 degrees, shears and shifts up to 0.3."""
    matrix = torch.eye(3, dtype=torch.float64)
    if name == "rotate":
        angle = math.radians(30 * strength)
        cosine, sine = math.cos(angle), math.sin(angle)
        matrix[:2, :2] = torch.tensor([[cosine, -sine * aspect], [sine / aspect, cosine]])
    elif name == "shear_x":
        matrix[0, 1] = 0.3 * strength * aspect
    elif name == "shear_y":
        matrix[1, 0] = 0.3 * strength / aspect
    else:
        matrix[0 if name == "translate_x" else 1, 2] = 2 * 0.3 * strength
    return matrix


def _scaling(x: float, y: float) -> Tensor:
    return torch.diag(torch.tensor([x, y, 1.0], dtype=torch.float64))


def _color(name: str, image: Tensor, strength: float) -> Tensor:
    """FixMatch's colour operations; ``strength`` in (0, 1), on a 3 x H x W image in [0, 1]."""
    factor = 0.05 + 0.9 * strength
    if name == "brightness":
        return T.adjust_brightness(image, factor)
    if name == "color":
        return T.adjust_saturation(image, factor)
    if name == "contrast":
        return T.adjust_contrast(image, factor)
    if name == "sharpness":
        with torch.autocast(image.device.type, enabled=False):  # which would round what its convolution smooths
            return T.adjust_sharpness(image, factor)
    if name == "autocontrast":
        return T.autocontrast(image)
    if name == "solarize":
        return T.solarize(image, threshold=1 - strength)
    if name == "identity":
        return image
    coarse = image.mul(255).round().to(torch.uint8)
    coarse = T.equalize(coarse) if name == "equalize" else T.posterize(coarse, bits=4 + int(4 * strength))
    return coarse.float().div(255)


def _hole(share: float, height: int, width: int, generator: torch.Generator) -> list[float]:
    """A square around a random pixel, clipped at the border, as (top, left, bottom, right) in fractions."""
    side = int(share * min(height, width))
    top, left = (int(uniform(0, size, generator)) - side // 2 for size in (height, width))
    edges = [max(top, 0) / height, max(left, 0) / width]
    return [*edges, min(top + side, height) / height, min(left + side, width) / width]


def _one_each(images: Tensor, generators: Sequence[torch.Generator]) -> None:
    if images.ndim != 4 or len(generators) != len(images):
        raise ValueError(f"generators must hold one an image: got {len(generators)} for images {tuple(images.shape)}")
