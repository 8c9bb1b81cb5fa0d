"""A deployed model as a graph: a program of torch.export, or ONNX; made, and run again by who will run it."""

from __future__ import annotations

import io
import json
import logging
import math
import operator
import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.interchange.deployed import Deployed, need
from segrefinery.models.segmenter import Segmenter, bands_read

Sizes = Sequence[int] | int
"""Height and width of the images, or what both are multiples of."""

OPSET = 20
NOTE = "segrefinery.json"
"""The file inside a torch program that says what it is."""
EXAMPLE = 149
"""Sides that an example has at least: odd, so that no size is taken for a special one."""
REMEDY = "write it for images of one size: --size HEIGHTxWIDTH"


def program_of(
    deployed: Deployed, stride: int, size: Sequence[int] | None = None, failed: Sequence[Sizes] = ()
) -> tuple[ExportedProgram, Sizes]:
    """The program, and the sizes it takes: ``size`` if given, else any (1) or what the network says, else multiples of
    ``stride``.

    Args:
        failed: sizes whose files were made, and are of no use.

    Raises:
        SegRefineryError: the network cannot be followed.
    """
    segmenters = [module for module in deployed.modules() if isinstance(module, Segmenter)]
    if size is None and (why := next((module.one_size for module in segmenters if module.one_size), None)):
        raise SegRefineryError(f"this network {why}; {REMEDY}")
    multiple = max((module.graph_multiple for module in segmenters), default=1)
    least = max((module.graph_least for module in segmenters), default=1)
    tries: Sequence[Sizes] = [size] if size is not None else sorted({multiple, math.lcm(multiple, stride)})
    reason: Exception | None = None
    for sizes in (each for each in tries if each not in failed):
        try:
            with quiet(), torch.no_grad():
                shown, shapes = example(deployed, sizes, least), (open_sizes(sizes, least),)
                program = torch.export.export(deployed, (shown,), dynamic_shapes=shapes, strict=False)
                if isinstance(sizes, int):  # some networks are followed, and then refuse sizes unlike the example's
                    module = program.module()
                    for other in of_other_sizes(shown, sizes, least):
                        module(other)
                return program, sizes
        except Exception as error:  # it raises whatever its parts and the network's raise
            reason = error
    if reason is None:
        raise SegRefineryError(
            f"the file computes something else on images of other sizes than its example's; {REMEDY}"
        )
    remedy = "" if size is not None else f"; {REMEDY}"
    raise SegRefineryError(f"torch.export cannot follow the network: {first_line(reason)}{remedy}") from reason


def example(deployed: Deployed, sizes: Sizes, least: int) -> Tensor:
    """Two images: of sides that are ``EXAMPLE`` or a little more, where the ``least`` is one pixel."""
    if isinstance(sizes, int):
        height = -(-(EXAMPLE + least - 1) // sizes) * sizes
        sizes = (height, height + (34 if sizes == 1 else 2 * sizes))
    shape, random = (2, bands_read(deployed), *sizes), torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    return image if deployed.reads == "uint8" else image.float() / 255


def of_other_sizes(image: Tensor, sizes: int, least: int) -> list[Tensor]:
    """One image that is larger than the example, and one that is smaller; where any size goes, one of them is a
    multiple of every stride, where a network may go another way than for the example's odd sides."""
    if sizes == 1:
        height, width, small = (side + least - 1 for side in (256, 320, 130))
        return [
            F.pad(image[:1], (0, width - image.shape[-1], 0, height - image.shape[-2])),
            image[:1, :, :small, :small],
        ]
    grown, small = 3 * sizes, -(-(127 + least) // sizes) * sizes
    return [F.pad(image[:1], (0, grown, 0, 2 * grown)), image[:1, :, :small, :small]]


@torch.no_grad()
def runs_elsewhere(deployed: Deployed, runner: Callable[[Tensor], Tensor], sizes: int, least: int) -> bool:
    """Whether a file computes on images unlike the example what the module does: some graphs keep a size of it."""
    for image in of_other_sizes(example(deployed, sizes, least), sizes, least):
        try:
            given, wanted = runner(image).float(), deployed(image).float()
        except SegRefineryError:
            return False
        if given.shape != wanted.shape or float((given - wanted).abs().mean()) > 1e-2 * float(wanted.abs().max()):
            return False
    return True


@torch.no_grad()
def least_taken(deployed: Deployed, runner: Callable[[Tensor], Tensor], sizes: int, least: int) -> int:
    """The smallest side, a multiple of ``sizes`` and no less than ``least``, from which on a file computes what the
    module does: torch.export takes for granted that no side of a map is one cell, and a program refuses images that
    break it.

    Raises:
        SegRefineryError: it does for none that are smaller than the example.
    """
    whole = example(deployed, sizes, least)
    sides = range(-(-least // sizes) * sizes, min(whole.shape[-2:]) + 1, sizes)

    def refused(side: int) -> bool:
        for image in (whole[:1, :, :side, :side], whole[:, :, :side], whole[:, :, :, :side]):
            try:
                given, wanted = runner(image.contiguous()).float(), deployed(image).float()
            except (SegRefineryError, RuntimeError, ValueError):  # the file's refusal, or the network's own
                return True
            if given.shape != wanted.shape:
                return True
            if float((given - wanted).abs().mean()) > 1e-2 * float(wanted.abs().max()):
                return True
        return False

    place = bisect_left(sides, True, key=lambda side: not refused(side))
    if place == len(sides):
        raise SegRefineryError(
            f"the file computes something else on images that are smaller than its example; {REMEDY}"
        )
    return sides[place]


def open_sizes(sizes: Sizes, least: int) -> dict[int, Any]:
    """What of the image's shape may vary."""
    if not isinstance(sizes, int):
        return {0: Dim.DYNAMIC}
    if sizes == 1:
        return {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    fewest, most = -(-least // sizes), 65_536 // sizes
    return {
        0: Dim("batch", min=1, max=65_536),
        2: sizes * Dim("rows", min=fewest, max=most),
        3: sizes * Dim("columns", min=fewest, max=most),
    }


def torch_bytes(program: ExportedProgram, note: dict[str, Any]) -> bytes:
    """The program as ``torch.export.load`` reads it, with ``note`` in its extra files.

    Raises:
        SegRefineryError: it does with sizes what no file holds.
    """
    file = io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, file, extra_files={NOTE: json.dumps(note)})
    except Exception as error:  # as above
        raise SegRefineryError(
            f"torch.export cannot save the program: {first_line(root_of(error))}; {REMEDY}"
        ) from error
    return file.getvalue()


def torch_runner(content: bytes) -> Callable[[Tensor], Tensor]:
    """What the file computes, read back."""
    module: nn.Module = torch.export.load(io.BytesIO(content)).module()

    def run(image: Tensor) -> Tensor:
        try:
            return module(image)
        except AssertionError as error:
            sides = " x ".join(map(str, image.shape[-2:]))
            raise SegRefineryError(
                f"the program takes no images of {sides} pixels ({first_line(error)}); {REMEDY}"
            ) from error

    return run


def onnx_bytes(program: ExportedProgram, output: str, note: dict[str, Any], opset: int = OPSET) -> bytes:
    """The program as ONNX: input ``image``, one output named as ``output`` says, ``note`` in its metadata.

    Raises:
        SegRefineryError: a library is missing, or ONNX has no such operator.
    """
    need("onnx")
    need("onnxscript")
    try:
        with quiet():
            exported: Any = torch.onnx.export(
                program, (), dynamo=True, opset_version=opset, verbose=False, input_names=["image"],
                output_names=[output], custom_translation_table={operator.floordiv: floor_division(opset)},
            )  # fmt: skip
            model = exported.model_proto
    except Exception as error:  # as above
        lacking = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error) + str(error.__cause__))
        why = f"ONNX cannot express it ({first_line(root_of(error))})"
        what = f"ONNX has no operator {lacking[1]}" if lacking else why
        raise SegRefineryError(f"{what}, which this network needs; --format torch does without ONNX") from error
    name_sizes(model.graph)
    return onnx_described(model.SerializeToString(), note)


def onnx_described(content: bytes, note: dict[str, Any]) -> bytes:
    """A model with ``note`` in its metadata, in place of what was there."""
    onnx = need("onnx")
    model = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(model, {key: text_of(value) for key, value in note.items()})
    return model.SerializeToString()


def floor_division(opset: int) -> Callable[..., Any]:
    """Python's division of whole numbers in ONNX, whose own rounds towards 0: padded sizes are made of negatives."""
    from importlib import import_module

    op: Any = getattr(import_module("onnxscript"), f"opset{opset}")

    def divide(one: Any, other: Any) -> Any:
        rest = op.Mod(one, other)  # has the sign of the divisor, as Python's
        return op.Div(op.Sub(one, rest), other)

    return divide


def name_sizes(graph: Any) -> None:
    """Give the open sizes of input and output names that say what they are."""
    names: dict[str, str] = {}
    for dim, word in zip(
        graph.input[0].type.tensor_type.shape.dim, ("batch", "channels", "height", "width"), strict=True
    ):
        if dim.dim_param:
            names[dim.dim_param] = word
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def onnx_runner(content: bytes) -> Callable[[Tensor], Tensor]:
    """What onnxruntime computes on a processor.

    Raises:
        SegRefineryError: it is not installed, or cannot read the model.
    """
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise SegRefineryError(f"onnxruntime cannot read the model: {first_line(error)}; {REMEDY}") from error

    def run(image: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        except Exception as error:  # as above
            sides = " x ".join(map(str, image.shape[-2:]))
            raise SegRefineryError(
                f"onnxruntime cannot run the model on images of {sides} pixels ({first_line(error)}); {REMEDY}"
            ) from error

    return run


def opset_of(content: bytes) -> int:
    """The opset that a model is written in."""
    model = need("onnx").load_model_from_string(content)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def root_of(error: BaseException) -> BaseException:
    """What an exporter ran into, under its own words on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters tell their own developers."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
