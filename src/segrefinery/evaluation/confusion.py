"""The confusion matrix and the scores read off it (CPSL supplement 6.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from segrefinery.labels import IGNORE


class ConfusionMatrix:
    """Exact integer counts of (reference, prediction) pairs; sums over batches, devices and ranks.

    Scores are in [0, 1] and are means over the classes that occur in the reference or in a prediction.

    Attributes:
        matrix: C x C int64 on the CPU, rows = reference, columns = prediction.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred: Tensor, label: Tensor) -> None:
        """Count a batch: two integer tensors of the same shape; pixels whose label is 255 are left out.

        Raises:
            ValueError: shapes differ, an id lies outside 0..C-1, or what is given are no integers.
        """
        for name, ids in (("pred", pred), ("label", label)):
            if ids.is_floating_point():  # 0.9 would count as class 0
                raise ValueError(f"{name} holds {ids.dtype}; integer class ids expected")
        if pred.shape != label.shape:
            raise ValueError(f"pred {tuple(pred.shape)} and label {tuple(label.shape)} must have the same shape")
        valid = label != IGNORE
        pred, label = pred[valid].long(), label[valid].long()
        for name, ids in (("pred", pred), ("label", label)):
            if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.num_classes):
                raise ValueError(
                    f"{name} holds ids {int(ids.min())}..{int(ids.max())}; expected 0..{self.num_classes - 1}"
                )
        counts = torch.bincount(label * self.num_classes + pred, minlength=self.num_classes**2)
        self.matrix += counts.view(self.num_classes, self.num_classes).cpu()

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of another matrix (another rank's, another image's)."""
        self.matrix += other.matrix
        return self

    @property
    def iou(self) -> Tensor:
        """C float64: intersection over union; NaN for a class in neither reference nor prediction."""
        hits = self.matrix.diag().double()
        union = self.matrix.sum(0).double() + self.matrix.sum(1).double() - hits
        return torch.where(union > 0, hits / union.clamp(min=1), torch.nan)

    @property
    def miou(self) -> float:
        """Mean of ``iou`` over the classes that occur; NaN if nothing was counted."""
        return float(self.iou.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that are right; NaN if nothing was counted."""
        return float(self.matrix.diag().sum().double() / self.matrix.sum().double())

    @property
    def mean_pixel_accuracy(self) -> float:
        """Mean over the classes of the reference of the share of their pixels that are right (CPSL eq. 15-16)."""
        total = self.matrix.sum(1).double()
        return float(torch.where(total > 0, self.matrix.diag().double() / total.clamp(min=1), torch.nan).nanmean())
