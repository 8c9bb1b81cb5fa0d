"""DAFormer's feature distance: on things, stay near what the pre-trained encoder knew (Hoyer et al., CVPR 2022).

It helps encoders pre-trained on ImageNet's labels. With DINOv2 the published evidence is that it harms.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.models.segmenter import Segmenter
from segrefinery.refine.base import Refiner, Step
from segrefinery.refine.settings import FeatureDistanceSettings


def cells_of_classes(label: Tensor, classes: Iterable[int], size: tuple[int, int], ratio: float = 0.75) -> Tensor:
    """Cells of a coarse grid that are covered by one of the classes.

    Args:
        label: B x H x W int64, 255 ignored (an ignored pixel belongs to no class).
        classes: ids.
        size: h and w of the grid.
        ratio: least share of a cell's pixels that one class must have; above 0.5, so that it is the majority.

    Returns:
        B x h x w bool.
    """
    covered = torch.zeros(len(label), *size, dtype=torch.bool, device=label.device)
    for class_id in classes:
        share = F.adaptive_avg_pool2d((label == class_id).float()[:, None], size)[:, 0]
        covered |= share >= ratio
    return covered


def masked_feature_distance(features: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean over the cells of a mask of the Euclidean distance between two feature maps (DAFormer, L_FD).

    Args:
        features, reference: B x D x h x w.
        mask: B x h x w bool. Where it is empty the result is 0, with zero gradients.
    """
    distance = torch.linalg.vector_norm(features.float() - reference.float(), dim=1)
    return (distance * mask).sum() / mask.sum().clamp_min(1)


class FeatureDistance(Refiner):
    """Changes no label; adds the loss, in every stage that trains on the source. The frozen network is part of its
    state, so that a resumed run measures against the same one."""

    def __init__(
        self, reference: Segmenter, classes: Iterable[int], settings: FeatureDistanceSettings | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or FeatureDistanceSettings()
        self.classes = tuple(classes)
        self.reference = copy.deepcopy(reference).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FeatureDistance:
        """The reference never trains, whatever mode the stage around it is in."""
        del mode
        return super().train(False)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if not self.settings.weight:
            return {}
        with torch.no_grad():
            reference = self.reference.levels(step.source.batch.image)[-1]
        features = step.source.prediction.levels[-1]
        size = (features.shape[-2], features.shape[-1])
        mask = cells_of_classes(step.source.batch.label, self.classes, size, self.settings.ratio)
        return {"feature_distance": self.settings.weight * masked_feature_distance(features, reference, mask)}
