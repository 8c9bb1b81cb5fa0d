"""Mixing two batches of images and labels by a mask: ClassMix (as in DACS) and CutMix. Plain tensors in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segrefinery.labels import IGNORE


def classmix(
    image_a: Tensor, label_a: Tensor, image_b: Tensor, label_b: Tensor, classes: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Paste the pixels of ``a`` whose label is among ``classes`` over ``b``.

    Args:
        image_a, image_b: B x 3 x H x W.
        label_a, label_b: B x H x W, of any integer type.
        classes: one 1-D tensor of class ids an image; an empty one pastes nothing.

    Returns:
        image B x 3 x H x W, label B x H x W, mask B x H x W bool (True where ``a`` shows).

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(image_a, label_a, image_b, label_b)
    if len(classes) != len(label_a):
        raise ValueError(f"classes must hold one tensor an image: got {len(classes)} for {len(label_a)} images")
    nothing = torch.zeros(256, dtype=torch.bool, device=label_a.device)
    tables = [nothing.index_fill(0, ids.to(nothing.device, torch.int64), True) for ids in classes]
    # As int64, for a table takes uint8 for a mask.
    mask = torch.stack([table[label] for table, label in zip(tables, label_a.long(), strict=True)])
    return mix_labels(mask, image_a, image_b), mix_labels(mask, label_a, label_b), mask


def draw_mix_classes(
    label: Tensor, generators: Sequence[torch.Generator], preset: Literal["paper", "official"] = "paper"
) -> list[Tensor]:
    """Half of the classes present, rounded up, drawn without replacement for each image.

    Args:
        label: B x H x W, 255 ignored.
        generators: one an image.
        preset: ``paper`` draws from the classes of the image, 255 left out. ``official`` draws from the union over the
            batch with 255 as a class of its own, as the code of DACS, DAFormer and MIC does (lhoyer/DAFormer#19); its
            draws then depend on how a global batch is sharded.

    Returns:
        One 1-D int64 tensor an image, on the label's device.
    """
    if len(generators) != len(label):
        raise ValueError(f"generators must hold one an image: got {len(generators)} for {len(label)} images")
    present = _values_of(label)
    if preset == "official":
        present = present.any(dim=0).expand_as(present)
    else:
        present[:, IGNORE] = False
    drawn = []
    for occurs, generator in zip(present, generators, strict=True):
        classes = occurs.nonzero()[:, 0]
        order = torch.randperm(len(classes), generator=generator)[: (len(classes) + 1) // 2]
        drawn.append(classes[order].to(label.device, non_blocking=True))
    return drawn


def _values_of(label: Tensor) -> Tensor:
    """B x 256 bool on the CPU: which values are in each image's label. A GPU is waited for here, once a batch."""
    table = torch.zeros(len(label), 256, dtype=torch.bool, device=label.device)
    return table.scatter_(1, label.flatten(1).long(), True).cpu()


def cutmix(
    image_a: Tensor,
    label_a: Tensor,
    image_b: Tensor,
    label_b: Tensor,
    generators: Sequence[torch.Generator],
    area: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Paste one rectangle of ``a`` over ``b`` in each image.

    The rectangle covers the fraction ``area`` of the image, up to rounding; its share of the height is area^U(0,1)
    (CPSL's code, data/randaugment.py). Shapes and result are those of ``classmix``; ``generators``: one an image.
    """
    _check(image_a, label_a, image_b, label_b)
    if not 0 <= area <= 1:
        raise ValueError(f"area must lie in [0, 1]: got {area}")
    if len(generators) != len(label_a):
        raise ValueError(f"generators must hold one an image: got {len(generators)} for {len(label_a)} images")
    height, width = label_a.shape[-2:]
    mask = torch.zeros(label_a.shape, dtype=torch.bool, device=label_a.device)
    for image_mask, generator in zip(mask, generators, strict=True):
        power, down, right = torch.rand(3, generator=generator).tolist()
        h = max(1, round(height * area**power)) if area else 0
        w = min(width, round(area * height * width / h)) if h else 0
        top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
        image_mask[top : top + h, left : left + w] = True
    return mix_labels(mask, image_a, image_b), mix_labels(mask, label_a, label_b), mask


def mix_labels(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where the mask (B x H x W bool) is True, else ``b``; both B x H x W or B x C x H x W."""
    return torch.where(mask if a.ndim == mask.ndim else mask[:, None], a, b)


def _check(image_a: Tensor, label_a: Tensor, image_b: Tensor, label_b: Tensor) -> None:
    if image_a.shape != image_b.shape:
        raise ValueError(f"image_a and image_b differ in shape: {tuple(image_a.shape)}, {tuple(image_b.shape)}")
    expected = (image_a.shape[0], *image_a.shape[-2:])
    for name, label in (("label_a", label_a), ("label_b", label_b)):
        if tuple(label.shape) != expected:
            raise ValueError(f"{name} must be B x H x W of its image, {expected}: got {tuple(label.shape)}")
