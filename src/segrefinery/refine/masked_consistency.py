"""MIC: the student must name what is hidden, from the context around it (Hoyer, Dai, Wang, Van Gool, CVPR 2023).

A term that any self-training recipe can add: cross-entropy of the student on a block-masked target image against the
labels made from the whole image. (Reference code: lhoyer/MIC seg/mmseg/models/uda/masking_consistency_module.py.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.losses import learner_cross_entropy, weighted_cross_entropy
from segrefinery.models.segmenter import Prediction
from segrefinery.refine.base import Refiner, Step
from segrefinery.refine.settings import MaskedConsistencySettings


def block_mask(size: tuple[int, int], block: int, ratio: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Masks that hide whole blocks: one block is kept where u ~ U(0, 1) > ratio.

    The grid has round(H / block) x round(W / block) cells (at least one) and is enlarged to H x W by nearest
    neighbour, so that blocks are only about ``block`` pixels wide where the size is no multiple of it.

    Args:
        size: H and W in pixels.
        block: side of a block in pixels.
        ratio: share of blocks to hide, in [0, 1].
        generators: one an image.

    Returns:
        B x 1 x H x W of 0 (hidden) and 1, on the CPU.
    """
    height, width = size
    cells = max(round(height / block), 1), max(round(width / block), 1)
    kept = torch.stack([torch.rand(1, *cells, generator=generator) > ratio for generator in generators])
    return F.interpolate(kept.float(), size, mode="nearest")


class MaskedConsistency(Refiner):
    """Changes no label; adds the loss. It needs a teacher that looks at every batch, so in an offline generation and
    in a supervised stage it is silent."""

    def __init__(self, settings: MaskedConsistencySettings | None = None) -> None:
        super().__init__()
        self.settings = settings or MaskedConsistencySettings()

    def losses(self, step: Step) -> dict[str, Tensor]:
        target = step.target
        if target is None or target.view is None or not self.settings.weight:
            return {}
        image = target.view.image
        size = (image.shape[-2], image.shape[-1])
        labels = target.labels
        if self.settings.labels == "teacher":
            labels = replace(labels, probs=target.view.probs)
        label, weight = labels.at(size)

        if self.settings.strong:
            image = step.strong(image)
        mask = block_mask(size, self.settings.block, self.settings.ratio, step.generators[: len(image)])
        mask = mask.to(image.device, non_blocking=True)
        prediction: Prediction = step.student(image * mask)  # 0 is the mean colour of normalised images

        loss = weighted_cross_entropy(prediction.logits, label, weight, aligned=prediction.aligned)
        if self.settings.aux_weight:
            for learner in prediction.learners[1:]:
                loss = loss + self.settings.aux_weight * learner_cross_entropy(learner, label, weight)
        return {"masked": self.settings.weight * loss}
