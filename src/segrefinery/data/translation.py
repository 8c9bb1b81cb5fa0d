"""Source images in the style of the target: FDA or colour statistics; those of another tool are in ``translated``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.data.photometric import IMAGENET_MEAN, IMAGENET_STD, PerBand, denormalize, normalize
from segrefinery.data.settings import TranslationSettings
from segrefinery.spectrum import swap_low_frequency_amplitude


def translate(
    content: Tensor,
    style: Tensor,
    settings: TranslationSettings | None = None,
    mean: PerBand = IMAGENET_MEAN,
    std: PerBand = IMAGENET_STD,
) -> Tensor:
    """``content`` in the style of ``style``, image by image; both B x 3 x H x W, normalised by ``mean`` and ``std``.

    FDA works on raw pixels: on normalised ones the sign of the mean would stay the content's, and with it the
    brightness. The result is clamped to [0, 1] before it is normalised again.

    Raises:
        ValueError: ``kind: folder``, whose images come with the batch.
    """
    settings = settings or TranslationSettings()
    if settings.kind == "folder":
        raise ValueError("images from a folder are translated already")
    with torch.autocast(content.device.type, enabled=False):
        raw, wanted = denormalize(content.detach().float(), mean, std), denormalize(style.detach().float(), mean, std)
        if settings.kind == "fda":
            styled = swap_low_frequency_amplitude(raw, wanted, settings.fraction)
        else:
            styled = raw
            if raw.shape[1] >= 3:  # red, green and blue; other bands have no colour
                styled = torch.cat([match_color_statistics(raw[:, :3], wanted[:, :3]), raw[:, 3:]], dim=1)
        return normalize(styled.clamp(0, 1), mean, std)


def translate_at_random(
    content: Tensor,
    styles: Tensor,
    random: list[torch.Generator],
    settings: TranslationSettings,
    mean: PerBand = IMAGENET_MEAN,
    std: PerBand = IMAGENET_STD,
) -> Tensor:
    """Each image of ``content`` in the style of one image of ``styles``, drawn for it.

    Args:
        content: B x 3 x H x W, normalised. styles: of any number and size, normalised alike.
        random: at least B generators, one an image.

    Returns:
        B x 3 x H x W, normalised.
    """
    partners = [int(torch.randint(len(styles), (), generator=generator)) for generator in random[: len(content)]]
    style = styles[torch.tensor(partners, device=styles.device)]
    if style.shape[-2:] != content.shape[-2:]:
        style = F.interpolate(style, content.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
    return translate(content, style, settings, mean, std)


def match_color_statistics(content: Tensor, style: Tensor) -> Tensor:
    """``content`` with the mean and standard deviation of each CIE Lab channel of ``style``, image by image.

    Reinhard et al., "Color Transfer between Images", 2001, in CIE Lab (D65). The sizes may differ.

    Args:
        content, style: B x 3 x H x W sRGB in [0, 1].

    Returns:
        B x 3 x H x W in [0, 1]. A content channel without spread takes the style's mean.
    """
    content_lab, style_lab = rgb_to_lab(content), rgb_to_lab(style)
    shift, center = (lab.mean(dim=(2, 3), keepdim=True) for lab in (content_lab, style_lab))
    spread, width = (lab.std(dim=(2, 3), keepdim=True, correction=0) for lab in (content_lab, style_lab))
    return lab_to_rgb((content_lab - shift) * (width / spread.clamp(min=1e-2)) + center).clamp(0, 1)


_XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_LAB_EDGE = 6 / 29


def rgb_to_lab(image: Tensor) -> Tensor:
    """sRGB in [0, 1] -> CIE Lab (D65): B x 3 x H x W, L in [0, 100]."""
    image = image.float()
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0) + 0.055) / 1.055).pow(2.4))
    matrix = torch.tensor(_XYZ_OF_RGB, device=image.device)
    white = matrix.sum(dim=1)[:, None, None]
    x, y, z = (_root(torch.einsum("ij,bjhw->bihw", matrix, linear) / white)).unbind(dim=1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of ``rgb_to_lab``; colours outside sRGB leave [0, 1]."""
    lightness, red, blue = lab.float().unbind(dim=1)
    y = (lightness + 16) / 116
    roots = torch.stack((y + red / 500, y, y - blue / 200), dim=1)
    ratios = torch.where(roots > _LAB_EDGE, roots.pow(3), 3 * _LAB_EDGE**2 * (roots - 4 / 29))
    matrix = torch.tensor(_XYZ_OF_RGB, device=lab.device)
    linear = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(matrix), ratios * matrix.sum(dim=1)[:, None, None])
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308).pow(1 / 2.4) - 0.055)


def _root(ratio: Tensor) -> Tensor:
    return torch.where(
        ratio > _LAB_EDGE**3, ratio.clamp(min=_LAB_EDGE**3).pow(1 / 3), ratio / (3 * _LAB_EDGE**2) + 4 / 29
    )
