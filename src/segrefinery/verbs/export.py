"""Put a run's model where it must run, and say whether it computes there what it computes here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import write_bytes
from segrefinery.core.settings import choose
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.transforms import evaluation_size, normalize, resize_image
from segrefinery.engine.model import Model, ModelConfig, load
from segrefinery.evaluation.inference import logits_at
from segrefinery.interchange.deployed import (
    GRIDS,
    OUTPUTS,
    READS,
    Deployed,
    Grid,
    Output,
    Reads,
    fitted,
    largest_stride,
    said,
)
from segrefinery.interchange.graph import (
    OPSET,
    Sizes,
    onnx_bytes,
    onnx_runner,
    opset_of,
    program_of,
    torch_bytes,
    torch_runner,
)
from segrefinery.models.weights import CONFIG, read_config

Format = Literal["onnx", "torch"]
FORMATS = {"onnx": "onnxruntime", "torch": "torch.export.load"}
"""What a file is checked with."""
TOLERANCE = 1e-3
"""Of the largest logit, or of probability 1: what a file may differ by and be written."""


@dataclass
class Exported:
    """A file that was written, and checked before.

    Attributes:
        note: what whoever runs it has to know, which lies in the file too.
        images: how many it was checked on. difference: the largest, of logits or probabilities (None of labels).
        equal: the share of pixels whose label is the same.
    """

    path: Path
    note: dict[str, Any]
    images: int
    difference: float | None
    equal: float

    def lines(self) -> list[str]:
        """All of it, to be read."""
        note = [f"{name}: {text if isinstance(text, str) else json.dumps(text)}" for name, text in self.note.items()]
        largest = "" if self.difference is None else f"largest difference {self.difference:.1e} of the largest value, "
        return [*note, f"{self.path}: written; on {self.images} images {largest}{100 * self.equal:.3f} % equal labels"]


def export(
    run: str | Path,
    output: str | Path,
    format: Format = "onnx",
    *,
    result: Output = "logits",
    reads: Reads = "uint8",
    grid: Grid = "image",
    size: tuple[int, int] | None = None,
    opset: int = OPSET,
    check: str | Path | None = None,
    images: int = 4,
) -> Exported:
    """Write a run's model as one file that reads plain images; what refiners do at inference (IR2F) is in it.

    Args:
        format: ``onnx``, or ``torch`` for ``torch.export.load``.
        result, reads, grid: as in ``Deployed``.
        size: height and width, for a network that cannot be written for images of any size.
        check: images that the file is compared with the model on; by default those the run was adapted to.
        images: how many of them.

    Raises:
        SegRefineryError: no model, no images, an operator that ONNX lacks, or a file that computes something else;
            nothing is written then.
    """
    for what, table, value in (
        ("format", FORMATS, format), ("output", OUTPUTS, result), ("reads", READS, reads), ("grid", GRIDS, grid),
    ):  # fmt: skip
        choose(table, value, what)
    model = load(run, "cpu")
    shown = list(first_images(model, check or target_of(run), images))
    deployed = Deployed(model, reads, result, grid)
    program, sizes = program_of(deployed, largest_stride(model), size)
    note = said(model, deployed, sizes)
    if format == "onnx":
        content = onnx_bytes(program, result, note, opset)
        note["opset"], runner = str(opset_of(content)), onnx_runner(content)
    else:
        content = torch_bytes(program, note)
        runner = torch_runner(content)
    difference, equal = compared(model, deployed, runner, sizes, shown)
    if (difference or 0) > TOLERANCE or equal < 1 - TOLERANCE:
        raise SegRefineryError(
            f"{output}: not written, for {FORMATS[format]} computes something else on {len(shown)} images: differences "
            f"up to {difference or 0:.2g}, {100 * equal:.2f} % equal labels; try --size HEIGHTxWIDTH, or another format"
        )
    write_bytes(Path(output), content)
    return Exported(Path(output), note, len(shown), difference, equal)


def target_of(run: str | Path) -> str:
    """The images that a model was adapted to."""
    folders = (Path(run), Path(run) / "model", Path(run) / "source_model")
    config = read_config(next(folder for folder in folders if (folder / CONFIG).exists()) / CONFIG, ModelConfig)
    if config.trained_on.target is None:
        raise SegRefineryError(f"{run}: does not say what it was adapted to; name images with --check IMAGES")
    return config.trained_on.target


def first_images(model: Model, images: str | Path, count: int) -> Iterator[Tensor]:
    """uint8 images as the model wants them: resized as in training."""
    try:
        dataset = UnlabeledView(open_dataset(str(images)))
    except SegRefineryError as error:
        raise SegRefineryError(f"{error}; name images to check the file on with --check IMAGES") from error
    for index in range(min(count, len(dataset))):
        image = dataset.image(index)
        yield resize_image(image, evaluation_size(image.shape[-2:], model.data))


@torch.no_grad()
def compared(
    model: Model, deployed: Deployed, runner: Callable[[Tensor], Tensor], sizes: Sizes, images: list[Tensor]
) -> tuple[float | None, float]:
    """The largest difference between a file and the model, as a share of the largest value, and the share of equal
    labels. The model is asked by its own way, not by the module that was exported."""
    largest, equal, pixels = 0.0, 0, 0
    for plain in images:
        image = fitted(plain, sizes)[None]
        found = runner(image if deployed.reads == "uint8" else image.float() / 255)
        read = normalize(image, *model.data.normalization)
        size = (image.shape[-2], image.shape[-1])
        own = logits_at(model.network, read, size) if deployed.grid == "image" else model.network(read).logits
        if deployed.output == "labels":
            label = found.long()
        else:
            label = found.argmax(dim=1)
            values = own if deployed.output == "logits" else own.softmax(dim=1)
            largest = max(largest, float((found - values).abs().max() / values.abs().max()))
        equal += int((label == own.argmax(dim=1)).sum())
        pixels += label.numel()
    return (None if deployed.output == "labels" else largest), equal / pixels
