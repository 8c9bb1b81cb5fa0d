"""Pixels of one class are drawn together across domains: a projection head, hard-anchor sampling, a refiner.

Part of PRN (Zhao, Mithun et al., WACV 2024, section 3.4): "we utilize GT labels for source samples and refined labels
from the PRN for target samples to find the positive and negative samples". Constants are ContrastiveSeg's (Wang et al.,
ICCV 2021), for only a summary of PRN was available to us. It knows nothing of how the target labels were refined, so it
can follow any other refiner.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segrefinery.core.pixelwise import most_probable
from segrefinery.core.resize import nearest
from segrefinery.labels import IGNORE
from segrefinery.losses import pixel_contrastive_loss
from segrefinery.models.heads import Norm, conv_norm, joined
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.refine.base import Refiner, Step
from segrefinery.refine.settings import PixelContrastSettings


class ProjectionHead(nn.Module):
    """All levels at the finest one's size, joined, to an embedding B x width x h x w through one hidden layer."""

    def __init__(self, level_channels: Sequence[int], width: int = 256, norm: Norm = "batch") -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_norm(sum(level_channels), width, norm=norm), nn.Conv2d(width, width, 1))

    def forward(self, levels: Sequence[Tensor], aligned: bool = False) -> Tensor:
        block, last = self.layers
        return last(joined(block, levels, levels[0].shape[-2:], aligned))


class PixelContrast(Refiner):
    """Leaves labels alone and adds the contrastive loss over source labels and the target labels the student learns."""

    reads_features = True

    def __init__(self, settings: PixelContrastSettings, segmenter: Segmenter) -> None:
        super().__init__()
        self.settings = settings
        self.projection = ProjectionHead(segmenter.level_channels, settings.width, settings.norm)

    def losses(self, step: Step) -> dict[str, Tensor]:
        source, target = step.source, step.target
        if target is None or step.number < self.settings.warmup:
            return {}
        # Of the mixed image the target's pixels alone: what was pasted from the source is in the pool already.
        domains = ((source.prediction, source.batch.label), (target.prediction, target.mixed.target_label))
        vectors, labels, drawn_from = [], [], []
        for prediction, label in domains:
            embedding, label, wrong = self._embed(prediction, label)
            vectors.extend(embedding)
            labels.extend(label)
            drawn_from.extend(torch.stack([label, wrong.long()], dim=1).cpu())  # a GPU is waited for once
        chosen = sample_anchors(
            [label for label, _ in drawn_from],
            [wrong.bool() for _, wrong in drawn_from],
            step.generators,
            self.settings.min_pixels,
            self.settings.samples,
            self.settings.samples_per_class,
        )
        chosen = [pixels.to(source.batch.image.device, non_blocking=True) for pixels in chosen]
        pool = torch.cat([one[pixels] for one, pixels in zip(vectors, chosen)])
        label = torch.cat([one[pixels] for one, pixels in zip(labels, chosen)])
        return {"pixel_contrast": self.settings.weight * pixel_contrastive_loss(pool, label, self.settings.temperature)}

    def _embed(self, prediction: Prediction, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """On the embedding's grid of Q pixels: vectors B x Q x D, labels B x Q, and where the student is wrong."""
        embedding = self.projection(prediction.levels, prediction.aligned)
        size = embedding.shape[-2:]
        label = nearest(label, size, prediction.aligned)
        said = most_probable(prediction.logits.detach(), size, prediction.aligned)
        return embedding.flatten(2).mT, label.flatten(1), (said != label).flatten(1)


def sample_anchors(
    labels: Sequence[Tensor],
    wrong: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    min_pixels: int = 100,
    samples: int = 1024,
    samples_per_class: int = 100,
) -> list[Tensor]:
    """Draw labelled pixels, half of them hard, from every class that has more than ``min_pixels`` in an image: for each
    such pair of image and class n = min(samples // number of pairs, samples_per_class), or all there are.

    Args:
        labels: one vector of class ids an image, on the CPU; 255 is never drawn.
        wrong: one bool vector an image, True where the student is wrong: the hard pixels. If either kind has fewer than
            n / 2, the other fills up.
        generators: dealt to the images in turn.
        min_pixels, samples, samples_per_class: see above.

    Returns:
        One vector of pixel indices an image.
    """
    kinds = [_frequent(label, min_pixels) for label in labels]
    wanted = min(max(samples // max(sum(map(len, kinds)), 1), 1), samples_per_class)
    drawn = []
    for image, (label, hard) in enumerate(zip(labels, wrong)):
        generator = generators[image % len(generators)]
        pixels = [torch.zeros(0, dtype=torch.long)]
        for kind in kinds[image]:
            groups = [(label == kind) & hard, (label == kind) & ~hard]
            groups = [group.nonzero()[:, 0] for group in groups]
            n_hard = min(len(groups[0]), max(wanted // 2, wanted - len(groups[1])))
            for group, count in zip(groups, (n_hard, wanted - n_hard)):
                pixels.append(group[torch.randperm(len(group), generator=generator)[:count]])
        drawn.append(torch.cat(pixels))
    return drawn


def _frequent(label: Tensor, min_pixels: int) -> list[int]:
    """The classes that more than ``min_pixels`` pixels carry."""
    kinds, counts = label.unique(return_counts=True)
    return kinds[(counts > min_pixels) & (kinds != IGNORE)].tolist()
