"""Scores on labelled images, whole or strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.pixelwise import highest
from segrefinery.data.datasets import picture_of
from segrefinery.data.transforms import DataSettings
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.evaluation.inference import device_of, predict_probs
from segrefinery.evaluation.strips import is_large, label_strips
from segrefinery.evaluation.windows import Size


@dataclass
class Evaluation:
    """Counts over a data set.

    Attributes:
        total: over all images.
        per_image: N x C x C int64, each image's own counts (rows = reference), for paired comparisons.
    """

    total: ConfusionMatrix
    per_image: Tensor


@torch.no_grad()
def evaluate_network(
    network: nn.Module,
    dataset: Any,
    data: DataSettings,
    num_classes: int,
    window: Size | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    images: Sequence[int] | None = None,
) -> Evaluation:
    """Evaluate on labelled images; predictions are brought to the label's size before they are counted. Those of large
    pictures are made and counted strip by strip, through windows as ``predict`` looks.

    Args:
        dataset: a labelled data set in the network's label space. images: indices of those to look at; None for all.
    """
    was_training = network.training
    network.eval()
    total, per_image = ConfusionMatrix(num_classes), []
    chosen = range(len(dataset)) if images is None else images
    for done, index in enumerate(chosen, 1):
        one = ConfusionMatrix(num_classes)
        label = dataset.label(index)
        out = (label.shape[-2], label.shape[-1])
        if is_large(data, out, out):
            label = label.to(torch.uint8)
            for strip in label_strips(network, picture_of(dataset, index), data, window, out):
                one.update(strip.label, label[strip.top : strip.top + len(strip.label)])
        else:
            probs = predict_probs(network, dataset.image(index), data, window, out)
            one.update(highest(probs), label.to(device_of(network)))
        total.merge(one)
        per_image.append(one.matrix)
        progress(done, len(chosen))
    network.train(was_training)
    return Evaluation(total, torch.stack(per_image) if per_image else torch.zeros(0, num_classes, num_classes).long())
