"""Losses as plain functions on tensors, all in float32 or better."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pixel-weighted cross-entropy, divided by *all* pixels, ignored ones included.

    Dividing by a fixed number keeps the pull of every pixel the same however many are ignored, and makes the loss of
    a global batch the mean of its shards'. (DAFormer's convention: reference code, mmseg/models/losses/utils.py.)

    Args:
        logits: B x C x h x w; up-sampled to the label's size where they differ (bilinear).
        label: B x H x W int64, 255 ignored.
        weight: B x H x W in [0, 1], or None for 1.
    """
    if logits.shape[-2:] != label.shape[-2:]:
        logits = F.interpolate(logits.float(), label.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    if weight is not None:
        loss = loss * weight
    return loss.mean()


class SeesABox(Protocol):
    """A classifier's opinion and the part of the image it covers (``models.segmenter.Learner``)."""

    logits: Tensor
    box: tuple[float, float, float, float]


def crop_to_box(pixels: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """The part of a map (... x H x W) inside a box (top, left, bottom, right) in fractions of the image, to the pixel."""
    height, width = pixels.shape[-2:]
    top, left, bottom, right = box
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(f"box {box} is not (top, left, bottom, right) in fractions of the image")
    rows = slice(round(top * height), max(round(bottom * height), round(top * height) + 1))
    columns = slice(round(left * width), max(round(right * width), round(left * width) + 1))
    return pixels[..., rows, columns]


def learner_cross_entropy(learner: SeesABox, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """``weighted_cross_entropy`` of one learner against the part of the label (and of the weight) that it sees.

    Args:
        learner: its logits are B x C x h x w on the grid of its own box.
        label: B x H x W int64 of the whole image, 255 ignored.
        weight: B x H x W in [0, 1], or None for 1.
    """
    inside = crop_to_box(label, learner.box)
    return weighted_cross_entropy(learner.logits, inside, None if weight is None else crop_to_box(weight, learner.box))
