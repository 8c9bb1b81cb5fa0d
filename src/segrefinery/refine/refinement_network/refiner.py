"""PRN: a network that learns on spoiled source logits to repair pseudo-labels and to say which not to trust.

Method: "Unsupervised Domain Adaptation for Semantic Segmentation with Pseudo Label Self-Refinement" (Zhao, Mithun et
al., WACV 2024, arXiv 2310.16979). Only a summary of the paper was available to us.

The paper's: a decoder with two heads that reads the teacher's features and logits; the Fourier perturbation of source
logits, its strength drawn from [0.05, 0.2]; pixels marked as noise teach nothing. Our reconstruction: the layers, the
form and weights of the losses, what the mask is taught, the warm-up, and the other perturbations.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segrefinery.losses import weighted_cross_entropy
from segrefinery.models.heads import Norm, conv_norm, joined
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, Step
from segrefinery.refine.refinement_network.formulas import noise_mask_loss, perturb
from segrefinery.refine.refinement_network.settings import RefinementNetworkSettings

log = logging.getLogger(__name__)


@dataclass
class Refinement:
    """What the decoder says: refined class logits B x C x h x w and noise logits B x h x w (> 0 = do not trust)."""

    logits: Tensor
    noise: Tensor


class RefinementDecoder(nn.Module):
    """Teacher's levels and class logits in, a ``Refinement`` on the logits' grid out.

    Modelled on SegFormer's all-MLP head: every level and the logits are brought to one width and one grid, joined,
    mixed by a 1 x 1 and a 3 x 3 convolution, and read by two heads. Any number of levels, any strides.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        num_classes: int,
        width: int = 256,
        norm: Norm = "batch",
        dropout: float = 0.1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.levels = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in level_channels)
        self.opinion = conv_norm(num_classes, width, norm=norm)
        self.mix = nn.Sequential(
            conv_norm((len(level_channels) + 1) * width, width, norm=norm),
            conv_norm(width, width, kernel=3, norm=norm),
            nn.Dropout2d(dropout),
        )
        self.classes = nn.Conv2d(width, num_classes, 1)
        self.noise = nn.Conv2d(width, 1, 1)
        if residual:  # starts as what it is given
            for parameter in self.classes.parameters():
                nn.init.zeros_(parameter)

    def forward(self, levels: Sequence[Tensor], logits: Tensor, aligned: bool = False) -> Refinement:
        read = [project(level) for project, level in zip(self.levels, levels, strict=True)]
        join, *rest = self.mix
        mixed = joined(join, [*read, self.opinion(logits)], logits.shape[-2:], aligned)
        for layer in rest:
            mixed = layer(mixed)
        refined = self.classes(mixed).float()
        if self.residual:
            refined = refined + logits.float()
        return Refinement(refined, self.noise(mixed)[:, 0].float())


class RefinementNetwork(Refiner):
    """PRN as a refiner: trained on the source only, applied to the target, never at inference.

    It reads the teacher's own logits, as it does in training, and therefore stands first in a chain: with ``refine`` it
    replaces what earlier refiners made of the labels, and keeps their weights.
    """

    reads_features = True
    trained_steps: Tensor

    def __init__(self, settings: RefinementNetworkSettings, segmenter: Segmenter) -> None:
        super().__init__()
        self.settings = settings
        self.decoder = RefinementDecoder(
            segmenter.level_channels,
            segmenter.num_classes,
            settings.width,
            settings.norm,
            settings.dropout,
            settings.residual,
        )
        self.trains_classes = settings.refine or settings.mask_target == "refined"
        self.decoder.classes.requires_grad_(self.trains_classes)
        self.decoder.noise.requires_grad_(settings.mask)
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.long))
        self._rejects_all = False

    @torch.no_grad()
    def examine(self, view: TeacherView) -> Refinement:
        """What the network makes of a view, with running statistics and without dropout, whether warmed up or not."""
        training = self.decoder.training
        self.decoder.eval()
        try:
            return self.decoder(view.levels, view.logits, view.aligned)
        finally:
            self.decoder.train(training)

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        if self.trained_steps < self.settings.warmup:
            return labels
        refinement = self.examine(view)
        if self.settings.refine:
            labels = replace(labels, probs=refinement.logits.softmax(dim=1))
        if self.settings.mask:
            keep = refinement.noise.sigmoid() <= self.settings.noise_threshold
            self._warn_if_nothing_is_kept(keep)
            labels = labels.weighted(keep)
        return labels

    def losses(self, step: Step) -> dict[str, Tensor]:
        settings, source, target = self.settings, step.source.batch, step.target
        if target is None or target.view is None:
            return {}
        view = target.teacher.view(step.strong(source.image) if settings.augment_source else source.image)
        low, high = settings.strength
        strength = low + (high - low) * float(torch.rand((), generator=step.generators[0]))
        spoiled = perturb(view.logits, target.view.logits, settings.perturbation, strength, step.generators)

        refined = self.decoder(view.levels, spoiled, view.aligned)
        losses = {}
        if self.trains_classes:
            losses["refinement"] = weighted_cross_entropy(refined.logits, source.label, aligned=view.aligned)
        if settings.mask:
            judged = spoiled if settings.mask_target == "input" else refined.logits.detach()
            loss = noise_mask_loss(refined.noise, judged, source.label, view.aligned, settings.largest_balance)
            losses["noise_mask"] = settings.mask_weight * loss
        return losses

    def after_step(self, step: Step) -> None:
        if step.target is not None and step.target.view is not None:
            self.trained_steps += 1

    def _warn_if_nothing_is_kept(self, keep: Tensor) -> None:
        """Once a streak; training goes on with the source alone."""
        rejects_all = not bool(keep.any())
        if rejects_all and not self._rejects_all:
            log.warning(
                "refinement_network: the noise mask rejects every pixel of the target batch (after %d steps of its "
                "training); nothing is learned from the target until it keeps some.",
                int(self.trained_steps),
            )
        self._rejects_all = rejects_all
