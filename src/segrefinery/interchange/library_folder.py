"""A trained model as a folder of another library, which that library's own code reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.transforms import evaluation_size, normalize
from segrefinery.engine.model import Model
from segrefinery.interchange.deployed import fitted
from segrefinery.models.foreign import smp, transformers
from segrefinery.models.foreign.tapped import Tapped

LIBRARIES = {"hf": "transformers", "smp": "segmentation_models_pytorch"}
"""By the word that ``export`` takes."""


@dataclass
class Written:
    """A folder that was written, read back by its library.

    Attributes:
        note: what whoever uses it has to know.
        runner: uint8 images B x 3 x H x W -> logits B x C x H x W, as the library computes them.
        whole: a uint8 image 3 x H x W -> its labels H x W, by the library's own preparation of images; None where it
            has none.
        multiple, least, square: what its images must be for it to compute the same: sides of these multiples, of at
            least so many pixels, and as long.
    """

    note: dict[str, Any]
    runner: Callable[[Tensor], Tensor]
    whole: Callable[[Tensor], Tensor] | None
    multiple: int
    least: int = 1
    square: bool = False

    def fitted(self, image: Tensor) -> Tensor:
        """A uint8 image with its border repeated to a size that the library takes."""
        if not self.square:
            return fitted(image, self.multiple, self.least)
        side = -(-max(image.shape[-2:]) // self.multiple) * self.multiple
        return fitted(image, (side, side))


def write(library: str, model: Model, name: str, folder: Path) -> Written:
    """Write a model as a folder of a library.

    Args:
        library: of ``LIBRARIES``. name: of the network, for errors.

    Raises:
        SegRefineryError: the network is none of the library's, or refiners act at prediction.
    """
    if model.network is not model.segmenter:
        raise SegRefineryError(
            f"{name}: refiners are part of this predictor, and {LIBRARIES[library]} has the network alone; --format "
            "onnx and torch write all of it"
        )
    theirs = {"hf": transformers.as_theirs, "smp": smp.as_theirs}
    module = theirs[library](model.segmenter)
    if module is None:
        others = [f"--format {key}" for key, find in theirs.items() if key != library and _is(find, model)]
        raise SegRefineryError(
            f"{name}: is no network of {LIBRARIES[library]}; {' or '.join([*others, '--format onnx or torch'])} "
            "writes it"
        )
    return (_write_hf if library == "hf" else _write_smp)(model, module.cpu().eval(), folder)


def _is(find: Callable[[Any], Any], model: Model) -> bool:
    try:
        return find(model.segmenter) is not None
    except SegRefineryError:  # the library is not installed, say
        return False


def _write_hf(model: Model, module: Any, folder: Path) -> Written:
    network = model.segmenter
    bgr, square, arguments = False, False, {}
    if isinstance(network, Tapped):
        bgr, square, arguments = network.bgr, network.patch is not None, network.arguments
    size, resize = _processed_size(model, square)
    transformers.save(module, folder, model.space.classes)
    transformers.save_processor(folder, model.data.normalization, size, bgr)
    module, processor = transformers.load_back(folder)

    def logits(pixels: Tensor, sides: tuple[int, int]) -> Tensor:
        return F.interpolate(module(pixels, **arguments).logits, sides, mode="bilinear", align_corners=False)

    def runner(image: Tensor) -> Tensor:
        read = normalize(image, *model.data.normalization)
        return logits(read.flip(1) if bgr else read, (image.shape[-2], image.shape[-1]))

    def whole(image: Tensor) -> Tensor:
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        return logits(pixels, (image.shape[-2], image.shape[-1])).argmax(dim=1)[0]

    asked = ", ".join(["**inputs", *(f"{key}={value}" for key, value in arguments.items())])
    note = {
        "classes": list(model.space.classes),
        "processor": f"{type(processor).__name__}: {resize}",
        "load": f"AutoModelForSemanticSegmentation.from_pretrained(FOLDER), and model({asked})",
    }
    return Written(note, runner, whole, network.graph_multiple, network.graph_least, square)


def _processed_size(model: Model, square: bool) -> tuple[tuple[int, int] | None, str]:
    """Height and width that the library's processor brings images to, and in words."""
    short, shape = model.data.evaluation_short_side or model.data.short_side, model.image_size
    if not short and not square:
        return None, "images are read at their own size"
    sides = evaluation_size(shape, model.data) if shape else (short or 512, short or 512)
    stride = model.segmenter.largest_stride
    height, width = (max(stride, round(side / stride) * stride) for side in sides)
    if square:
        height = width = max(height, width)
        said = f"images are stretched to {height} x {width}, for the library's code takes squares alone"
        return (height, width), said
    whose = "as the target images were read, to" if shape else "for want of the target images' size to a square,"
    return (height, width), f"images are resized {whose} {height} x {width} (height x width, multiples of {stride})"


def _write_smp(model: Model, module: Any, folder: Path) -> Written:
    short, network = model.data.evaluation_short_side or model.data.short_side, model.segmenter
    assert isinstance(network, smp.SMP), "of which alone the module was made"
    more = {"short_side": short, "colors": [list(color) for color in model.space.colors]}
    smp.save(module, folder, model.data.normalization, model.space.classes, more)
    module = smp.load_back(folder)
    wanted = [f"a shorter side of {short} pixels"] if short else []
    wanted += [f"multiples of {network.multiple}"] if network.multiple > 1 else []
    wanted += [f"sides of at least {network.least}"] if network.least > network.multiple else []
    brought = f", brought by the caller to {' and '.join(wanted)}" if wanted else ", of any size"
    note = {
        "classes": list(model.space.classes),
        "images": f"normalised as {smp.PREPROCESSING} says{brought}",
        "load": "segmentation_models_pytorch.from_pretrained(FOLDER)",
    }

    def runner(image: Tensor) -> Tensor:
        return module(normalize(image, *model.data.normalization))

    return Written(note, runner, None, network.multiple, network.least)
