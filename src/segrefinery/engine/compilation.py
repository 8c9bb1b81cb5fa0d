"""torch.compile for the networks of a stage while it trains; states, copies and predictions stay as they are."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from segrefinery.core.settings import choose
from segrefinery.models.segmenter import Segmenter


def check_backend(name: str) -> None:
    """Look a backend up among torch's.

    Raises:
        SegRefineryError: there is none of that name; the message lists them.
    """
    choose(dict.fromkeys(torch.compiler.list_backends(exclude_tags=())), name, "training.compile")


def compile_networks(stage: nn.Module, backend: str | None) -> None:
    """Compile the forward pass of a stage's networks (student, teacher, references) in place; nothing if None.

    Of a network inside another the inner one is compiled: HRDA calls it at two sizes, and only the wrapper knows that
    its boxes move.
    """
    if backend is None:
        return
    for module in stage.modules():
        if isinstance(module, Segmenter) and not any(isinstance(inner, Segmenter) for inner in module.children()):
            module.compile(backend=backend)


def uncompiled(backend: str | None) -> AbstractContextManager[object]:
    """Run compiled networks as they were written, for images of any size: each new size would be compiled again."""
    return nullcontext() if backend is None else torch.compiler.set_stance("force_eager")
