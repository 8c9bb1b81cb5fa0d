"""From an image of any size to class probabilities at its own size, whole or by overlapping windows."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from segrefinery.core.errors import explained_if_out_of_memory
from segrefinery.core.resize import bilinear
from segrefinery.data.transforms import DataSettings, resize_for_evaluation
from segrefinery.evaluation.windows import Size, blended, shares
from segrefinery.models.segmenter import Segmenter, normalization_of

TO_NEED_LESS = (
    "look through smaller overlapping windows: --window HxW, in Python `model.window`, in a run --set window='[H, W]'. "
    "`segrefinery predict`, `evaluate` and `pseudo-label` see large pictures strip by strip; wherever else an image's "
    "probabilities are asked for they need 4 bytes a pixel and class"
)


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
        window: height and width of overlapping windows on the resized image (see ``windows``); None = the whole image.
        out: size of the result, by default the image's own.

    Raises:
        OutOfMemory: names the image's size and the remedy.
    """
    size = out or (image.shape[-2], image.shape[-1])
    with explained_if_out_of_memory(f"an image of {image.shape[-1]} x {image.shape[-2]}", TO_NEED_LESS):
        read_as = data.read_by(normalization_of(network))
        resized = resize_for_evaluation(image, read_as).unsqueeze(0).to(device_of(network))
        if window is None or (resized.shape[-2] <= window[0] and resized.shape[-1] <= window[1]):
            return probs_of(network, resized, size)[0]
        return sliding_probs(network, resized, window, size)[0]


def logits_at(network: nn.Module, image: Tensor, size: Size) -> Tensor:
    """B x C x ``size`` logits: decoded there by a network that can (IR2F), up-sampled bilinearly otherwise."""
    if decodes(network):
        return network.predict(image, size)  # pyright: ignore[reportCallIssue]
    prediction = network(image)
    return bilinear(prediction.logits.float(), size, prediction.aligned)


def sliding_probs(network: nn.Module, image: Tensor, window: Size, out: Size) -> Tensor:
    """Probabilities blended from overlapping windows: B x 3 x H x W -> B x C x ``out``. Beside the result a batch of
    windows is in memory; a network that does not decode at any resolution (IR2F does) also needs the probabilities at
    the image's own size, where that is another."""
    sides = (image.shape[-2], image.shape[-1])
    grid, total = out if decodes(network) else sides, None
    down, across = (shares(*axis, stride_of(network)) for axis in zip(sides, window, grid, strict=True))
    batch = windows_at_once(window, image.device) // len(image)

    def rows(top: int, bottom: int) -> Tensor:
        return image[..., top:bottom, :]

    for block in blended(partial(probs_of, network), rows, down, across, max(1, batch)):
        if total is None:
            total = block.probs.new_empty(*block.probs.shape[:2], *grid)
        total[..., slice(*block.rows), slice(*block.columns)] = block.probs
    assert total is not None
    return bilinear(total, out)


def probs_of(network: nn.Module, image: Tensor, size: Size) -> Tensor:
    """B x C x ``size`` float32 class probabilities of normalised images."""
    return logits_at(network, image, size).float().softmax(dim=1)


def decodes(network: nn.Module) -> bool:
    """Whether a network says something of every place, at whatever resolution it is asked (IR2F)."""
    return hasattr(network, "predict")


def stride_of(network: nn.Module) -> int:
    """Pixels a cell of the coarsest level of the segmenter inside; 32, a multiple of most, where it says none."""
    strides = (module.largest_stride for module in network.modules() if isinstance(module, Segmenter))
    stride = next(strides, 1)
    return stride if stride > 1 else 32


def windows_at_once(window: Size, device: torch.device) -> int:
    """How many windows are looked at together: what fills a GPU; a processor is no faster with several."""
    return max(1, (1 << 18 if device.type == "cpu" else 1 << 22) // (window[0] * window[1]))
