"""How good a prediction is near the borders between classes: scores inside a trimap."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.labels import IGNORE


def boundary_mask(label: Tensor, width: int) -> Tensor:
    """The trimap: pixels with a pixel of another class at most ``width`` rows and columns away.

    A border to ignored pixels is none, and ignored pixels are never part of it.

    Args:
        label: B x H x W or H x W class ids, 255 ignored.
        width: in pixels, to each side of a border.

    Returns:
        Bool, of the label's shape.

    Raises:
        ValueError: a width below 1, or a label of another shape.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1 pixel, got {width}")
    if label.ndim not in (2, 3):
        raise ValueError(f"label must be B x H x W or H x W, got {tuple(label.shape)}")
    ids = label.view(-1, 1, *label.shape[-2:]).float()
    known = ids != IGNORE
    highest, lowest = (
        F.max_pool2d(each.masked_fill(~known, -float(IGNORE)), 2 * width + 1, stride=1, padding=width)
        for each in (ids, -ids)
    )
    return ((highest != -lowest) & known).view(label.shape)


def boundary_counts(pred: Tensor, label: Tensor, width: int, num_classes: int) -> ConfusionMatrix:
    """The confusion matrix of the pixels inside the reference's trimap; counts of several images ``merge``.

    Args:
        pred, label: class ids of one shape, B x H x W or H x W; 255 in the label is ignored.
    """
    counts = ConfusionMatrix(num_classes)
    counts.update(pred, label.masked_fill(~boundary_mask(label, width), IGNORE))
    return counts


def boundary_iou(pred: Tensor, label: Tensor, width: int, num_classes: int) -> float:
    """Mean IoU inside the trimap, as DenseCRF and DeepLab evaluate it; NaN where there is no border.

    (The measure of Cheng et al., CVPR 2021, of the same name also cuts a trimap out of the prediction, per class.)
    """
    return boundary_counts(pred, label, width, num_classes).miou
