"""A trained model as one function of plain images: what is exported, and what is said of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.lazy import optional
from segrefinery.core.resize import bilinear
from segrefinery.engine.model import Model
from segrefinery.interchange.followable import followable
from segrefinery.models.segmenter import Segmenter, bands_read

Reads = Literal["uint8", "float"]
Output = Literal["logits", "probabilities", "labels"]
Grid = Literal["image", "network"]

READS = {"uint8": "0 to 255", "float": "0 to 1"}
OUTPUTS = {"logits": "float32", "probabilities": "float32", "labels": "uint8"}
GRIDS = {"image": "the image's pixels", "network": "the network's own grid"}


class Deployed(nn.Module):
    """Images to logits, probabilities or labels, with the normalisation inside.

    No image is resized. The network reads it at its own size; a model that was trained on images of another size wants
    its caller to bring them there first (``DataSettings.short_side``).
    """

    def __init__(self, model: Model, reads: Reads = "uint8", output: Output = "logits", grid: Grid = "image") -> None:
        """
        Args:
            reads: B x bands x H x W, uint8 from 0 to 255 or float32 from 0 to 1.
            output: B x C x H x W float32 ``logits`` or ``probabilities``, or B x H x W uint8 ``labels``.
            grid: the result lies on the ``image``'s pixels, or on the ``network``'s own grid.
        """
        super().__init__()
        # The layout of the weights in memory says nothing in a graph, and makes each size in it harder to follow.
        network = copy.deepcopy(model.network).cpu().eval().requires_grad_(False)
        self.network = followable(network.to(memory_format=torch.contiguous_format))
        self.reads: Reads = reads
        self.output: Output = output
        self.grid: Grid = grid
        mean, std = (torch.tensor(triple)[:, None, None] for triple in model.data.normalization)
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, image: Tensor) -> Tensor:
        plain = image.float() / 255 if self.reads == "uint8" else image
        logits = self.logits((plain - self.mean) / self.std)
        if self.output == "logits":
            return logits
        if self.output == "probabilities":
            return logits.softmax(dim=1)
        return logits.argmax(dim=1).to(torch.uint8)

    def logits(self, image: Tensor) -> Tensor:
        """B x C x h x w of normalised images."""
        decode = getattr(self.network, "predict", None)
        if decode is not None and self.grid == "image":
            return decode(image, image.shape[-2:], None)
        prediction = self.network(image)
        if self.grid == "network":
            return prediction.logits
        return bilinear(prediction.logits, image.shape[-2:], prediction.aligned)


def largest_stride(model: Model) -> int:
    """Of the network inside."""
    return next(module for module in model.network.modules() if isinstance(module, Segmenter)).largest_stride


def least_side(model: Model) -> int:
    """What the sides of images are at least in a graph for more than one size."""
    return max(module.graph_least for module in model.network.modules() if isinstance(module, Segmenter))


def fitted(image: Tensor, sizes: Sequence[int] | int, least: int = 1) -> Tensor:
    """A uint8 image 3 x H x W of a size that a graph takes: its border repeated to a multiple that is no less than
    ``least``, or cut or filled up to fixed sides."""
    if isinstance(sizes, int):
        sides = [-(-max(side, least) // sizes) * sizes for side in image.shape[-2:]]
    else:
        sides = sizes
    image = image[..., : sides[0], : sides[1]]
    missing = [wanted - side for wanted, side in zip(sides, image.shape[-2:], strict=True)]
    return F.pad(image[None].float(), (0, missing[1], 0, missing[0]), mode="replicate")[0].to(torch.uint8)


def usage_note(model: Model, deployed: Deployed, sizes: Sequence[int] | int, least: int) -> dict[str, Any]:
    """What whoever runs the file has to know, as text by name; it lies in the file too.

    Args:
        sizes: height and width, or what both are multiples of, and then at least ``least``.
    """
    number = "uint8" if deployed.reads == "uint8" else "float32"
    bands = bands_read(model.network)
    read = f"B x {bands} x H x W {number}, {READS[deployed.reads]}" + (", RGB" if bands == 3 else "")
    depth = "" if deployed.output == "labels" else f"{model.space.num_classes} x "
    shape = f"B x {depth}H x W {OUTPUTS[deployed.output]}"
    short = model.data.evaluation_short_side or model.data.short_side
    resize = "none: images are read at their own size"
    if short:
        resize = f"by the caller: the model was trained on images whose shorter side is {short} pixels"
    if isinstance(sizes, int):
        allowed = "any height and width" if sizes == 1 else f"heights and widths that are multiples of {sizes}"
        allowed += f" of at least {least}" if least > sizes else ""
    else:
        allowed = f"{sizes[0]} x {sizes[1]}, height x width"
    return {
        "input": f"{read}; {allowed}; normalisation is inside",
        "output": f"{deployed.output}, {shape}, on {GRIDS[deployed.grid]}",
        "resize": resize,
        "window": f"{model.window[0]} x {model.window[1]}, by the caller" if model.window else "none",
        "classes": list(model.space.classes),
        "colors": [list(color) for color in model.space.colors],
    }


def need(name: str) -> Any:
    """A library of the extra ``export``.

    Raises:
        SegRefineryError: it is not installed.
    """
    return optional(name, f"--format onnx needs {name}", "export")
