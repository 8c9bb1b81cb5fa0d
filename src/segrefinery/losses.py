"""Losses as plain functions on tensors, all in float32 or better."""

from __future__ import annotations

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
