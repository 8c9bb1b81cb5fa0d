"""Source images in the style of the target: FDA, colour statistics, or a folder made by any other tool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from segrefinery.core.settings import CODE, Settings
from segrefinery.data.datasets import SegmentationDataset, content_key, files_of, parts_of
from segrefinery.data.decoding import DataError, image_size, read_image
from segrefinery.data.photometric import IMAGENET_MEAN, IMAGENET_STD, PerBand, denormalize, normalize
from segrefinery.spectrum import swap_low_frequency_amplitude


class TranslationSettings(Settings):
    """How a source image takes the target's style; needs no training of its own."""

    kind: Literal["fda", "color", "folder"] = "fda"
    """Takes from a target image of the same step the low frequencies of the amplitude spectrum (``fda``), or the mean
    and spread of each channel of CIE Lab (``color``); or shows images that another tool has translated (``folder``)."""
    folder: str | None = None
    """Names the folder of those images, matched with the source's by file name."""
    fraction: Annotated[float, CODE] = Field(default=0.01, ge=0, le=0.5)
    """Sets half the width of FDA's swapped square, as a share of the shorter side (beta: 0.01, 0.05 or 0.09)."""

    @model_validator(mode="after")
    def _folder_goes_with_its_kind(self) -> Self:
        if self.kind == "folder" and not self.folder:
            raise ValueError("kind: folder needs folder: PATH, the images that another tool has translated")
        if self.kind != "folder" and self.folder is not None:
            raise ValueError(f"kind: {self.kind} reads no folder; set kind: folder, or leave the folder away")
        return self


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
            found = swap_low_frequency_amplitude(raw, wanted, settings.fraction)
        else:
            found = raw
            if raw.shape[1] >= 3:  # red, green and blue; other bands have no colour
                found = torch.cat([match_color_statistics(raw[:, :3], wanted[:, :3]), raw[:, 3:]], dim=1)
        return normalize(found.clamp(0, 1), mean, std)


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
    partners = [int(torch.randint(len(styles), (), generator=own)) for own in random[: len(content)]]
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
    own, other = rgb_to_lab(content), rgb_to_lab(style)
    shift, center = (lab.mean(dim=(2, 3), keepdim=True) for lab in (own, other))
    spread, width = (lab.std(dim=(2, 3), keepdim=True, correction=0) for lab in (own, other))
    return lab_to_rgb((own - shift) * (width / spread.clamp(min=1e-2)) + center).clamp(0, 1)


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


class TranslatedFolder:
    """A labelled data set whose images come from a folder of translations; names and labels stay its own.

    An image's translation has its name (the path inside the data set, without suffix), or the last part of it, with
    any suffix that images have.

    Args:
        field: of the recipe that names the folder, for errors.

    Raises:
        DataError: the folder is missing, or translations are missing, ambiguous, unreadable or of another size than
            their image; the first few are named.
    """

    has_labels = True

    def __init__(self, source: SegmentationDataset, folder: Path | str, field: str = "translated") -> None:
        self.source, self.folder = source, Path(folder).expanduser()
        self.reference, self.space = f"{source.reference} translated", source.space
        self.parts = parts_of(source)
        self._paths = _matched(source, self.folder, field)

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return read_image(self._paths[index])

    def label(self, index: int) -> Tensor:
        return self.source.label(index)

    def files(self, index: int) -> tuple[Path, ...]:
        """The translation and the files of the image it was made from."""
        return (self._paths[index], *files_of(self.source, index))

    def content_key(self) -> Iterator[str]:
        """Lines that change whenever a translation or the source does."""
        yield from content_key(self.source)
        for index, path in enumerate(self._paths):
            stat = path.stat()
            yield f"{self.name(index)} {path.name} {stat.st_size} {stat.st_mtime_ns}"


_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def _matched(source: SegmentationDataset, folder: Path, field: str) -> list[Path]:
    """The translation of every image, checked."""
    if not folder.is_dir():
        raise DataError(folder, field, "is not a folder", "give the folder that the translated images lie in")
    by_name: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            inside = path.relative_to(folder).with_suffix("").as_posix()
            for key in {inside, path.stem}:
                by_name.setdefault(key, []).append(path)
    paths: list[Path] = []
    missing: list[str] = []
    ambiguous: list[str] = []
    resized: list[str] = []
    for index in range(len(source)):
        name = source.name(index)
        found = by_name.get(name) or by_name.get(name.rsplit("/", 1)[-1]) or []
        if len(found) != 1:
            (ambiguous if found else missing).append(name)
            continue
        paths.append(found[0])
        size, wanted = image_size(found[0]), _size(source, index)
        if size != wanted:
            resized.append(f"{name} ({size[1]} x {size[0]} instead of {wanted[1]} x {wanted[0]})")
    for names, problem, remedy in (
        (missing, "have no translation", "translate them too, and keep the file names"),
        (ambiguous, "have several translations", "keep one file of each name"),
        (resized, "were translated at another size", "resize the translations to their images' size"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise DataError(folder, field, f"{len(names)} of {len(source)} images {problem}: {shown}", remedy)
    return paths


def _size(source: SegmentationDataset, index: int) -> tuple[int, int]:
    files = files_of(source, index)
    if files:
        return image_size(files[0])
    height, width = source.image(index).shape[-2:]
    return height, width
