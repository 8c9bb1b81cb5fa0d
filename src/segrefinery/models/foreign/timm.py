"""What timm's encoders need to be told, or to be asked, to read images of any size and to learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from segrefinery.core.errors import SegRefineryError, first_line

_MULTIPLES: dict[tuple[str, int], int] = {}
"""By an encoder's name and stride, what was found; a run builds an encoder several times."""


def image_multiple(network: nn.Module, name: str, stride: int, channels: int) -> int:
    """What the sides of images must be multiples of, found by trying: the encoder's largest stride, or where its grid
    is parted into windows (MaxViT's) the side of the images that it was trained on.

    Args:
        network: images to feature maps, finest first. stride, channels: of its last one.

    Raises:
        SegRefineryError: it takes images of one size alone.
    """
    key = (name, stride)
    if key not in _MULTIPLES:
        _MULTIPLES[key] = _tried(network, name, stride, channels)
    return _MULTIPLES[key]


@torch.no_grad()
def _tried(network: nn.Module, name: str, stride: int, channels: int) -> int:
    trained = _trained_size(name)
    training, tensor = network.training, next(network.parameters())
    network.eval()
    reason: Exception | None = None
    try:
        for multiple, rows, columns in ((stride, 3, 5), *(((trained, 1, 2),) if trained else ())):
            try:
                maps = network(tensor.new_zeros(1, 3, rows * multiple, columns * multiple))
            except Exception as error:  # it raises whatever its parts raise
                reason = error
                continue
            shape = maps[-1].shape
            height, width = shape[2:] if shape[1] == channels else shape[1:3]
            if height < width:  # some bring every image to one size themselves
                return multiple
    finally:
        network.train(training)
    why = f" ({first_line(reason)})" if reason else ""
    size = f"of {trained} x {trained} pixels alone" if trained else "of one size alone"
    raise SegRefineryError(
        f"{name!r} takes images {size}{why}, and a segmentation network reads others; choose an encoder for any size, "
        "for instance swin_tiny_patch4_window7_224, convnext_tiny or maxvit_tiny_tf_512"
    )


def _trained_size(name: str) -> int | None:
    import timm  # here, for it takes seconds to import

    config = timm.get_pretrained_cfg(name.split(".")[0])
    return None if config is None else int(config.input_size[-1])


def forget_biases(network: nn.Module) -> None:
    """Attention biases are parameters that TinyViT, LeViT and their kin look up once and keep until the next training:
    a teacher that only follows its student, and weights that are loaded later, would leave the old ones."""
    for layer in network.modules():
        if hasattr(layer, "attention_bias_cache"):
            layer.register_forward_pre_hook(_forget)


def _forget(layer: Any, inputs: tuple[Any, ...]) -> None:
    if layer.attention_bias_cache:
        layer.attention_bias_cache = {}
