"""Torch files, opened without running any code: an object of another library's class becomes an empty shell.

So a checkpoint opens that keeps its settings or its history beside the tensors, as Lightning's and mmengine's do, and
one that holds the whole module.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.core.files import readable

HARMLESS = frozenset(
    {"argparse", "collections", "datetime", "decimal", "enum", "fractions", "pathlib", "types", "uuid"}
)
"""Modules of Python whose objects checkpoints hold; a file that names another one wants to run something."""
POINTER = b"version https://git-lfs"
FETCH = "fetch the file again"
CUT = ("not fully covered", "invalid header length", "header too small")
"""What safetensors says of a file that ends too early: in its tensors, in its header, before that."""


def is_cut(error: BaseException) -> bool:
    """Whether safetensors found a file that ends too early."""
    return any(words in str(error) for words in CUT)


class Shell:
    """Stands for an object whose class is not loaded: keeps what it was given, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> Shell:
        del arguments, named
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        del arguments, named

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):  # an array of numpy has a tuple
            vars(self).update(state)


def read_torch_file(path: Path) -> Any:
    """What a torch file holds: tensors, plain values, and shells.

    Raises:
        SegRefineryError: it is cut, something else, or names a function that would run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return _with_shells(path, error)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if "central directory" in str(error):
            raise SegRefineryError(f"{path}: is cut short, as by half a download; {FETCH}") from error
        raise SegRefineryError(f"{path}: not a readable torch file ({first_line(error)}).") from error


def _with_shells(path: Path, reason: Exception) -> Any:
    refused = SegRefineryError(
        f"{path}: holds more than tensors, and loading it could run code, so it was not loaded. "
        "Save its state_dict alone, best as .safetensors."
    )
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        if any(_runs(name) for name in names):
            raise refused from reason
        with safe_globals([(type("Shell", (Shell,), {}), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except SegRefineryError:
        raise
    except Exception as error:  # an object of another kind than shells can stand for, or a file of the old format
        raise refused from error


def _runs(name: str) -> bool:
    module = name.partition(".")[0]
    return module in sys.stdlib_module_names and module not in HARMLESS


def with_states(loaded: Any) -> Any:
    """What a file holds, with modules as the mapping of their tensors by name."""
    if isinstance(loaded, Shell) and hasattr(loaded, "_modules"):
        return dict(_tensors(loaded))
    if isinstance(loaded, Mapping):
        return {name: with_states(value) for name, value in loaded.items()}
    return loaded


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The state of a module of which only the shell is here, by the names that its own ``state_dict`` gives."""
    parts = vars(module)
    passing = parts.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in (parts.get(kind) or {}).items():
            if isinstance(value, Tensor) and name not in passing:
                yield prefix + name, value.detach()
    for name, part in (parts.get("_modules") or {}).items():
        if isinstance(part, Shell):
            yield from _tensors(part, f"{prefix}{name}.")


def refuse_no_weights(path: Path) -> None:
    """Refuse a file that is plainly something else than weights.

    Raises:
        SegRefineryError: a pointer of git-lfs, a page of text, or nothing.
    """
    with readable(path).open("rb") as file:
        begin = file.read(64)
    if begin.startswith(POINTER):
        raise SegRefineryError(
            f"{path}: is a pointer of git-lfs and not the weights; run 'git lfs pull' where it was cloned, or {FETCH}"
        )
    if not begin:
        raise SegRefineryError(f"{path}: is empty; {FETCH}")
    if begin.lstrip()[:1] == b"<" and b"\0" not in begin:  # safetensors begin with a number, which may look like text
        raise SegRefineryError(f"{path}: is a page of text and no weights, as a failed download leaves it; {FETCH}")
    if path.suffix != ".safetensors" and not begin.startswith((b"PK", b"\x80")):
        raise SegRefineryError(f"{path}: is no weights file: not .safetensors, and not what torch.save writes")
