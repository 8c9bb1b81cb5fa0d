"""torch.compile for the networks of a stage while it trains; states, copies and predictions stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from segrefinery.core.settings import choose
from segrefinery.models.segmenter import Segmenter

log = logging.getLogger(__name__)


def check_backend(name: str) -> None:
    """Look a backend up among torch's.

    Raises:
        SegRefineryError: there is none of that name; the message lists them.
    """
    choose(dict.fromkeys(torch.compiler.list_backends(exclude_tags=())), name, "training.compile")


def compile_networks(stage: nn.Module, backend: str | None) -> None:
    """Compile the forward pass of a stage's networks (student, teacher, references) in place; nothing if None.

    Of a network inside another the inner one is compiled: HRDA calls it at two sizes, and only the wrapper knows that
    its boxes move. One that cannot be compiled is said, and runs as it was written.
    """
    if backend is None:
        return
    for module in stage.modules():
        if isinstance(module, Segmenter) and not any(isinstance(inner, Segmenter) for inner in module.children()):
            module.compile(backend=backend)
            module._compiled_call_impl = _or_as_written(module, backend)


def _or_as_written(module: nn.Module, backend: str) -> Callable[..., object]:
    """A call of the compiled module, or of what was written where its compiler fails; compilers do so at a call."""
    compiled: Any = module._compiled_call_impl

    def call(*inputs: object, **named: object) -> object:
        try:
            return compiled(*inputs, **named)
        except TorchDynamoException as error:
            # What was compiled for other sizes before is left, too: one way for all of them.
            module._compiled_call_impl = None
            log.warning(
                "training.compile: %s cannot compile %s, which runs as it was written from now on (%s)",
                backend, type(module).__name__, " ".join(str(error).split("\n")[:2]).strip(),
            )  # fmt: skip
            return module(*inputs, **named)

    return call


def uncompiled(backend: str | None) -> AbstractContextManager[object]:
    """Run compiled networks as they were written, for images of any size: each new size would be compiled again."""
    return nullcontext() if backend is None else torch.compiler.set_stance("force_eager")
