"""From an image of any size to class probabilities at its own size, whole or by overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.errors import explained_if_out_of_memory
from segrefinery.core.resize import bilinear
from segrefinery.data.transforms import DataSettings, resize_for_evaluation
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.models.segmenter import normalization_of

TO_NEED_LESS = (
    "predict by overlapping windows: --window HxW, in Python `model.window`, in a run --set window='[H, W]'; the "
    "probabilities of a whole image need 4 bytes a pixel and class in any case"
)

Size = tuple[int, int]


@dataclass
class Evaluation:
    """Counts over a data set.

    Attributes:
        total: over all images.
        per_image: N x C x C int64, each image's own counts (rows = reference), for paired comparisons.
    """

    total: ConfusionMatrix
    per_image: Tensor


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters lie."""
    return next(network.parameters()).device


@torch.no_grad()
def predict_probs(
    network: nn.Module, image: Tensor, data: DataSettings, window: Size | None = None, out: Size | None = None
) -> Tensor:
    """Class probabilities of one image: uint8 3 x H x W -> C x H x W float32 (or C x ``out``).

    Args:
        network: a segmenter in eval mode.
        data: how images are resized (``short_side``), and normalised if not by the network's own statistics.
        window: height and width of overlapping windows (half-way strides) on the resized image; None = the whole image.
        out: size of the result, by default the image's own.

    Raises:
        OutOfMemory: names the image's size and the remedy.
    """
    size = out or (image.shape[-2], image.shape[-1])
    with explained_if_out_of_memory(f"an image of {image.shape[-1]} x {image.shape[-2]}", TO_NEED_LESS):
        own = data.read_by(normalization_of(network))
        resized = resize_for_evaluation(image, own).unsqueeze(0).to(device_of(network))
        if window is None or (resized.shape[-2] <= window[0] and resized.shape[-1] <= window[1]):
            return logits_at(network, resized, size).float().softmax(dim=1)[0]
        return sliding_probs(network, resized, window, size)[0]


def logits_at(network: nn.Module, image: Tensor, size: Size) -> Tensor:
    """B x C x ``size`` logits: decoded there by a network that can (IR2F), up-sampled bilinearly otherwise."""
    decode = getattr(network, "predict", None)
    if decode is not None:
        return decode(image, size)
    seen = network(image)
    return bilinear(seen.logits.float(), size, seen.aligned)


def sliding_probs(network: nn.Module, image: Tensor, window: Size, out: Size) -> Tensor:
    """Probabilities averaged over overlapping windows: B x 3 x H x W -> B x C x ``out``. Beside the result a row of
    windows is in memory; a network that does not decode at any resolution (IR2F does) also needs the probabilities at
    the image's own size, where that is another."""
    sides = (image.shape[-2], image.shape[-1])
    own = out if hasattr(network, "predict") else sides
    total, count = None, image.new_zeros(own)
    for top in window_starts(sides[0], window[0]):
        for left in window_starts(sides[1], window[1]):
            part = image[..., top : top + window[0], left : left + window[1]]
            rows, columns = (
                slice(round(start * wanted / side), round((start + length) * wanted / side))
                for start, length, wanted, side in zip((top, left), part.shape[-2:], own, sides, strict=True)
            )
            size = (rows.stop - rows.start, columns.stop - columns.start)
            if 0 in size:  # the window is smaller than a pixel of the result; its neighbours cover that
                continue
            probs = logits_at(network, part, size).float().softmax(dim=1)
            if total is None:
                total = probs.new_zeros(len(image), probs.shape[1], *own)
            total[..., rows, columns] += probs
            count[rows, columns] += 1
    assert total is not None
    total /= count  # in place: these are the large ones
    return bilinear(total, out)


def window_starts(length: int, window: int) -> list[int]:
    """Starts of windows that cover ``length`` with strides of at most half a window."""
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(window // 2, 1))
    return [round(i * (length - window) / steps) for i in range(steps + 1)]


@torch.no_grad()
def evaluate_network(
    network: nn.Module,
    dataset: Any,
    data: DataSettings,
    num_classes: int,
    window: Size | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    seen: Callable[[int, Tensor, Tensor], None] = lambda index, probs, label: None,
) -> Evaluation:
    """Evaluate on labelled images; predictions are brought to the label's size before they are counted.

    Args:
        dataset: a labelled data set in the network's label space.
        seen: called with every image's index, C x H x W probabilities and H x W label.
    """
    was_training = network.training
    network.eval()
    total, per_image = ConfusionMatrix(num_classes), []
    for index in range(len(dataset)):
        label = dataset.label(index).to(device_of(network))
        probs = predict_probs(network, dataset.image(index), data, window, (label.shape[-2], label.shape[-1]))
        one = ConfusionMatrix(num_classes)
        one.update(probs.argmax(dim=0), label)
        total.merge(one)
        per_image.append(one.matrix)
        seen(index, probs, label)
        progress(index + 1, len(dataset))
    network.train(was_training)
    return Evaluation(total, torch.stack(per_image) if per_image else torch.zeros(0, num_classes, num_classes))
