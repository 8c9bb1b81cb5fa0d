"""SAM as a refiner: first the attention module learns on the source, then, frozen, it teaches the student.

Method: "Exploiting Inter-pixel Correlations in Unsupervised Domain Adaptation for Semantic Segmentation" (Chung, Yoo,
Kwak, arXiv 2110.10916). Our text of the paper had no formulas; they were rebuilt from the sentences around them. The
learning of attended features is ours where the paper is silent.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.refine.base import Refiner, SourceStep, Step
from segrefinery.refine.pixel_attention.formulas import attention_distance, mean_cross_entropy
from segrefinery.refine.pixel_attention.network import AttentionModule
from segrefinery.refine.pixel_attention.settings import PixelAttentionSettings

log = logging.getLogger(__name__)


class PixelAttention(Refiner):
    """SAM as a refiner: it leaves labels alone and adds a loss.

    Its life has two phases. With ``train`` the module learns on source labels, jointly with a segmenter that is then
    thrown away (section 4.1). Without, it is frozen and pulls the student's maps to their attended form (eq. 8-11).
    """

    trained: Tensor

    def __init__(self, settings: PixelAttentionSettings, segmenter: Segmenter) -> None:
        super().__init__()
        self.settings = settings
        channels = {"logits": segmenter.num_classes, "features": segmenter.feature_channels}
        self.layers = tuple(channels) if settings.layers == "both" else (settings.layers,)
        self.attention = nn.ModuleDict(
            {layer: AttentionModule(channels[layer], settings.kernel, settings.width) for layer in self.layers}
        )
        # Attended features need a classifier of their own to learn from; the paper does not describe one.
        self.classifier = (
            nn.Conv2d(segmenter.feature_channels, segmenter.num_classes, 1) if "features" in self.layers else None
        )
        self.register_buffer("trained", torch.tensor(False))
        self.requires_grad_(settings.train)

    def fit(self, teacher, source, target) -> None:
        if not self.settings.train and self.settings.kernel and not self.trained:
            log.warning(
                "pixel_attention teaches but was never trained: put a supervised stage with "
                "pixel_attention: {train: true} before this one."
            )

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.settings.train:
            self.trained.fill_(True)
            return {"pixel_attention": self._training_loss(step.source)}
        if step.target is None:
            return {}
        predictions = {"target": step.target.prediction}
        if self.settings.domains == "both":
            predictions["source"] = step.source.prediction
        return {f"attention_{domain}": self._pull(prediction) for domain, prediction in predictions.items()}

    def _training_loss(self, source: SourceStep) -> Tensor:
        """Cross-entropy of the up-sampled, attended maps with the source labels (section 4.2)."""
        total = source.prediction.logits.new_zeros((), dtype=torch.float32)
        for layer, maps in _maps(source.prediction, self.layers):
            attended = self.attention[layer](maps)
            judged = {"plain": attended, "skip": maps.float() + attended}
            for name in judged if self.settings.train_on == "both" else [self.settings.train_on]:
                logits = judged[name]
                if layer == "features" and self.classifier is not None:
                    logits = self.classifier(logits)
                total = total + mean_cross_entropy(logits, source.batch.label, source.prediction.aligned)
        return total

    def _pull(self, prediction: Prediction) -> Tensor:
        total = prediction.logits.new_zeros((), dtype=torch.float32)
        for layer, maps in _maps(prediction, self.layers):
            # The map inside its own target is detached too: the gradient of O - (O + attended) would be zero.
            with torch.no_grad():
                wanted = self.attention[layer](maps)
                if self.settings.target == "skip":
                    wanted = wanted + maps.float()
            total = total + attention_distance(maps.float(), wanted, self.settings.form, self.settings.divisor)
        return self.settings.weight * total


def _maps(prediction: Prediction, layers: tuple[str, ...]):
    return ((layer, getattr(prediction, layer)) for layer in layers)
