"""Put a run's model where it must run, and say whether it computes there what it computes here."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import refuse_unwritable, whole_folder, write_bytes
from segrefinery.core.settings import choose
from segrefinery.data.datasets import ImageDataset, UnlabeledView, open_dataset
from segrefinery.data.settings import References
from segrefinery.data.transforms import evaluation_size, normalize, resize_image
from segrefinery.engine.folders import RECIPE, model_folder, remedied_by_its_run
from segrefinery.engine.model import Model, ModelConfig, load
from segrefinery.engine.start import START
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
    least_side,
    need,
    usage_note,
)
from segrefinery.interchange.graph import (
    OPSET,
    Sizes,
    least_taken,
    onnx_bytes,
    onnx_described,
    onnx_runner,
    opset_of,
    program_of,
    runs_elsewhere,
    torch_bytes,
    torch_runner,
)
from segrefinery.interchange.library_folder import LIBRARIES
from segrefinery.interchange.library_folder import write as write_folder
from segrefinery.models.layout import in_layout_of, library_names
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.states import read_state
from segrefinery.models.weights import CONFIG, TENSORS, read_config
from segrefinery.recipe import load_recipe
from segrefinery.verbs.named import named_images, open_recorded

Pixels = Annotated[int, Field(ge=1)]
Format = Literal["onnx", "torch", "hf", "smp", "state_dict"]
FORMATS = {"onnx": "onnxruntime", "torch": "torch.export.load", **LIBRARIES, "state_dict": "torch.load"}
"""What a file or folder is checked with."""
UNADAPTED = f"stage: {START}: as the run began with it, not adapted"
TOLERANCE = 1e-3
"""Of the largest logit, or of probability 1: what a file may differ by and be written."""


@dataclass
class Exported:
    """A file or folder that was written, and checked before.

    Attributes:
        note: what whoever runs it has to know, which lies in a file too.
        images: how many it was checked on. difference: the largest, of logits or probabilities (None of labels).
        equal: the share of pixels whose label is the same.
        prepared: the same where a library prepares the images too, by its own processor; None where it does not.
        replaced: whether a file was there before.
    """

    path: Path
    note: dict[str, Any]
    images: int
    difference: float | None
    equal: float
    prepared: float | None = None
    replaced: bool = False

    def lines(self) -> list[str]:
        """All of it, to be read."""
        written = f"{self.path}: written{' in place of the one that was there' if self.replaced else ''}"
        if not self.images:
            return [*(f"{name}: {text}" for name, text in self.note.items()), written]
        note = [f"{name}: {text if isinstance(text, str) else json.dumps(text)}" for name, text in self.note.items()]
        largest = "" if self.difference is None else f"largest difference {self.difference:.1e} of the largest value, "
        said = f"{written}; on {self.images} images {largest}{100 * self.equal:.3f} % equal labels"
        if self.prepared is not None:
            said += f" ({100 * self.prepared:.3f} % where its own processor reads the images as they are)"
        return [*note, said]


@checked
def export(
    run: str | Path,
    output: str | Path,
    format: Format = "onnx",
    *,
    result: Output = "logits",
    reads: Reads = "uint8",
    grid: Grid = "image",
    size: Annotated[tuple[Pixels, Pixels] | None, "height and width in pixels, for instance (512, 1024),"] = None,
    opset: int = OPSET,
    check: References | None = None,
    images: Annotated[int, Field(ge=1)] = 4,
    like: str | Path | None = None,
    network: Segmenter | None = None,
) -> Exported:
    """Write a run's model as one file that reads plain images, with what refiners do at inference (IR2F) in it; or as a
    folder of the library that its network comes from; or its weights alone, as its owner's code loads them.

    Args:
        format: ``onnx``, ``torch`` for ``torch.export.load``, or a folder for ``from_pretrained`` of transformers
            (``hf``) or segmentation_models_pytorch (``smp``); ``state_dict``: see ``export_weights``.
        result, reads, grid: as in ``Deployed``; of a file.
        size: height and width, for a network that cannot be written for images of any size; of a file.
        check: images that it is compared with the model on; by default those the run was adapted to.
        images: how many of them.
        like: of ``state_dict``, the checkpoint in whose layout weights are written; by default that which the run
            started from.
        network: the module that was adapted, where it is one of yours (``models.wrap``); weights need none.

    Raises:
        SegRefineryError: no model, no images, an operator that ONNX lacks, a network that the library has not, or one
            that computes something else there; nothing is written then.
    """
    for what, table, value in (
        ("format", FORMATS, format), ("output", OUTPUTS, result), ("reads", READS, reads), ("grid", GRIDS, grid),
    ):  # fmt: skip
        choose(table, value, what)
    replaced = Path(output).is_file()
    if format not in LIBRARIES:
        refuse_place(Path(output), format, [like, config_of(run).trained_on.start])
    if format == "state_dict":
        if (result, reads, grid, size, check) != ("logits", "uint8", "image", None, None):
            raise SegRefineryError(
                "--format state_dict: weights alone are written, and read back; --output, --reads, --grid, --size and "
                "--check go with onnx and torch"
            )
        return finished(run, export_weights(run, Path(output), None if like is None else Path(like)), replaced)
    if like is not None:
        raise SegRefineryError("--like goes with --format state_dict, which writes weights in a checkpoint's layout")
    model = load(run, "cpu", network=network)
    shown = list(first_images(model, target_of(run) if check is None else named_images("check", check), images))
    if format in LIBRARIES:
        if (result, reads, grid, size) != ("logits", "uint8", "image", None):
            raise SegRefineryError(
                f"--format {format}: the library's own network puts out logits and reads images of any size; --output, "
                "--reads, --grid and --size go with onnx and torch"
            )
        return finished(run, export_folder(model, network_name(run), Path(output), format, shown))
    deployed = Deployed(model, reads, result, grid)
    return finished(run, export_file(model, deployed, Path(output), format, size, opset, shown), replaced)


def refuse_place(output: Path, format: Format, used: Sequence[str | Path | None]) -> None:
    """Find out before the work of making a file whether it can be written, and by what is installed.

    Args:
        used: checkpoints that it must not take the place of.

    Raises:
        SegRefineryError: it cannot, or is one of these, or part of a model folder.
    """
    paths = [Path(path) for path in used if path is not None]
    if any(path.is_file() and output.exists() and output.samefile(path) for path in paths):
        raise SegRefineryError(f"{output}: is the checkpoint that was adapted, and stays; name another file with -o")
    if output.name in (CONFIG, TENSORS) and (output.parent / CONFIG).exists():
        raise SegRefineryError(f"{output}: is part of the model folder {output.parent}; name another file with -o")
    if output.is_dir():
        name = {"onnx": "model.onnx", "torch": "model.pt2"}.get(format, "model.pth")
        raise SegRefineryError(f"{output}: is a folder, and --format {format} writes a file; say -o {output / name}")
    refuse_unwritable(output)
    for library in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        need(library)


def finished(run: str | Path, exported: Exported, replaced: bool = False) -> Exported:
    """Says so where what was written is not adapted: a run may ship the model that it started from."""
    exported.replaced = replaced
    if config_of(run).trained_on.stage == START:
        exported.note["stage"] = UNADAPTED.removeprefix("stage: ")
    return exported


def export_file(
    model: Model, deployed: Deployed, output: Path, format: Format, size: Sequence[int] | None, opset: int,
    images: list[Tensor],
) -> Exported:  # fmt: skip
    """Write one file; see ``export``."""
    failed: list[Sizes] = []
    least = least_side(model)
    while True:
        program, sizes = program_of(deployed, largest_stride(model), size, failed)
        note = usage_note(model, deployed, sizes, least)
        if format == "onnx":
            content = onnx_bytes(program, deployed.output, note, opset)
            runner = onnx_runner(content)
        else:
            content = torch_bytes(program, note)
            runner = torch_runner(content)
        if not isinstance(sizes, int) or runs_elsewhere(deployed, runner, sizes, least):
            break
        failed.append(sizes)
    if isinstance(sizes, int) and (smallest := least_taken(deployed, runner, sizes, least)) > max(least, sizes):
        least, note = smallest, usage_note(model, deployed, sizes, smallest)
        content = onnx_described(content, note) if format == "onnx" else torch_bytes(program, note)
    if format == "onnx":
        note["opset"] = str(opset_of(content))
    shown = [fitted(resized(model, image), sizes, least) for image in images]
    difference, equal = compared(model, runner, shown, deployed.reads, deployed.output, deployed.grid)
    refuse_another(output, format, len(images), difference, equal, "--size HEIGHTxWIDTH, or another format")
    write_bytes(output, content)
    return Exported(output, note, len(images), difference, equal)


def export_folder(model: Model, name: str, output: Path, format: Format, images: list[Tensor]) -> Exported:
    """Write a library's folder; see ``export``."""
    with whole_folder(output, SafetensorError) as folder:
        written = write_folder(format, model, name, folder)
        difference, equal = compared(model, written.runner, [written.fitted(resized(model, each)) for each in images])
        refuse_another(output, format, len(images), difference, equal, "--format onnx or torch")
        prepared = None if written.whole is None else through_processor(model, written.whole, images)
    return Exported(output, written.note, len(images), difference, equal, prepared)


def export_weights(run: str | Path, output: Path, like: Path | None) -> Exported:
    """Write a model's weights alone, as a torch file, or as ``.safetensors`` if the output is called so: in the layout
    of the checkpoint that it was adapted from, or of ``like``; of a network of a library, or of a module of the user's,
    under the names it has there.

    Raises:
        SegRefineryError: neither, refiners that act at prediction, or another network than the checkpoint's.
    """
    config, folder = config_of(run), model_folder(run)
    name = config.model.name
    if config.refine:
        raise SegRefineryError(
            f"{name}: refiners are part of this predictor, and a checkpoint has the network alone; --format onnx and "
            "torch write all of it"
        )
    with remedied_by_its_run(folder):
        state = read_state(folder / TENSORS)
    recipe = Path(run) / RECIPE
    brought = load_recipe(recipe).model if recipe.exists() else None
    start = like or Path(config.trained_on.start or "")
    note, keys = {"classes": ", ".join(config.classes)}, ""
    if start.is_file():
        named = None if brought is None else brought.classes
        relaid = in_layout_of(start, config.model, state, config.classes, named)
        tensors, content = relaid.tensors, relaid.content
        note |= {"layout": f"that of {start}", "classes": f"in the order of {start}"}
        keys = "".join(f"[{key!r}]" for key in relaid.key)
        note |= {"notes": "; ".join(relaid.notes)} if relaid.notes else {}
    elif like is not None or (tensors := library_names(name, state)) is None:
        raise SegRefineryError(
            f"{start}: there is no such checkpoint; name one with --like"
            if like is not None or config.trained_on.start
            else f"{name}: was not adapted from a checkpoint; name one of its network with --like, in whose layout the "
            "weights are to be written, or use --format onnx or torch"
        )
    else:
        content = tensors
        note["layout"] = f"the names of {name.partition(':')[0]}'s own module"
    flat = output.suffix == ".safetensors"
    note["load"] = "safetensors.torch.load_file(FILE)" if flat else f"torch.load(FILE){keys}"
    write_bytes(output, tensors_as_bytes(tensors) if flat else torch_file(content))
    return Exported(output, note, 0, None, 1.0)


def torch_file(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def refuse_another(
    output: Path, format: Format, images: int, difference: float | None, equal: float, remedy: str
) -> None:
    """Raises:
    SegRefineryError: what was written computes something else than the model."""
    if (difference or 0) > TOLERANCE or equal < 1 - TOLERANCE:
        raise SegRefineryError(
            f"{output}: not written, for {FORMATS[format]} computes something else on {images} images: differences "
            f"up to {difference or 0:.2g}, {100 * equal:.2f} % equal labels; try {remedy}"
        )


def config_of(run: str | Path) -> ModelConfig:
    """What a run or model folder says of its model."""
    return read_config(model_folder(run) / CONFIG, ModelConfig)


def network_name(run: str | Path) -> str:
    """The network's name in recipes."""
    return config_of(run).model.name


def target_of(run: str | Path) -> ImageDataset:
    """The images that a model was adapted to.

    Raises:
        SegRefineryError: it does not say them, or they are not there.
    """
    remedy = "Name images to check what is written on with --check IMAGES"
    target = config_of(run).trained_on.target
    if target is None:
        raise SegRefineryError(f"{run}: does not say what it was adapted to. {remedy}")
    return open_recorded(run, "target", target, remedy)


def first_images(model: Model, images: ImageDataset | str, count: int) -> Iterator[Tensor]:
    """uint8 images as they lie there.

    Raises:
        SegRefineryError: there are none, or they have other bands than the model reads.
    """
    dataset = UnlabeledView(open_dataset(images) if isinstance(images, str) else images)
    model.refuse_other_bands(dataset)
    for index in range(min(count, len(dataset))):
        yield dataset.image(index)


def resized(model: Model, image: Tensor) -> Tensor:
    """A uint8 image as the model wants it."""
    return resize_image(image, evaluation_size(image.shape[-2:], model.data))


@torch.no_grad()
def compared(
    model: Model, runner: Callable[[Tensor], Tensor], images: list[Tensor],
    reads: Reads = "uint8", output: Output = "logits", grid: Grid = "image",
) -> tuple[float | None, float]:  # fmt: skip
    """The largest difference between what was written and the model, as a share of the largest value, and the share of
    equal labels. The model is asked by its own way, not by the module that was exported.

    Args:
        runner: an image 1 x 3 x H x W as it ``reads`` it -> what it puts out.
        images: uint8, of a size that it takes.
    """
    largest, equal, pixels = 0.0, 0, 0
    for image in (plain[None] for plain in images):
        exported = runner(image if reads == "uint8" else image.float() / 255)
        read = normalize(image, *model.data.normalization)
        size = (image.shape[-2], image.shape[-1])
        ours = logits_at(model.network, read, size) if grid == "image" else model.network(read).logits
        if exported.shape[-2:] != ours.shape[-2:]:
            there, here = (" x ".join(map(str, each.shape[-2:])) for each in (exported, ours))
            raise SegRefineryError(
                f"what was written puts out {there} for an image where {here} is wanted, as of a network with "
                "another depth or upsampling than its library's own; --format onnx, torch and state_dict write it"
            )
        if output == "labels":
            label = exported.long()
        else:
            label = exported.argmax(dim=1)
            values = ours if output == "logits" else ours.softmax(dim=1)
            largest = max(largest, float((exported - values).abs().max() / values.abs().max()))
        equal += int((label == ours.argmax(dim=1)).sum())
        pixels += label.numel()
    return (None if output == "labels" else largest), equal / pixels


@torch.no_grad()
def through_processor(model: Model, whole: Callable[[Tensor], Tensor], images: list[Tensor]) -> float:
    """The share of equal labels on images as they lie there, which a library and the model each prepare."""
    equal = [(whole(image) == model.predict(image).argmax(dim=0)).flatten() for image in images]
    return float(torch.cat(equal).float().mean())
