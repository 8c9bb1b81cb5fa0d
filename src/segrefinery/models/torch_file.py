"""Torch files, opened without running any code: an object of another library's class becomes an empty shell.

So a checkpoint opens that keeps its settings or its history beside the tensors, as Lightning's and mmengine's do, and
one that holds the whole module.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.core.files import readable

HARMLESS = frozenset(
    {
        "argparse", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions", "numbers", "pathlib",
        "types", "typing", "uuid", "functools.partial", "functools.reduce", "logging.getLogger", "random.Random",
        "re._compile", "_codecs.encode", "_operator.getitem", "_operator.or_", "builtins.Ellipsis",
        *(f"builtins.{kind.__name__}" for kind in (
            bool, bytearray, bytes, dict, float, frozenset, int, list, object, range, slice, str, tuple, type,
        )),
    }
)  # fmt: skip
"""Modules and names of Python whose objects checkpoints hold; a file that names another one wants to run something."""
OF_TENSORS = frozenset(
    {
        "collections.Counter", "collections.OrderedDict", "torch.Size", "torch.device", "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state", "builtins.complex", "builtins.set",
    }
)  # fmt: skip
"""What is called, and nothing else is: what makes tensors and plain values."""
ITEMS = "items of a mapping"
"""Where a shell keeps them."""
POINTER = b"version https://git-lfs"
NAMES = "it names"
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

    def __setitem__(self, name: Any, value: Any) -> None:  # of a kind of mapping, as settings are kept in
        vars(self).setdefault(ITEMS, {})[name] = value

    def extend(self, values: Any) -> None:  # of a kind of list
        del values

    append = add = extend


class Maker:
    """Something of ``OF_TENSORS``, which can be called and not be changed."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"what makes tensors is not to be changed ({state})")


class ShellUnpickler(pickle.Unpickler):
    """Reads a pickle and calls nothing but ``OF_TENSORS``: all other names become shells, or are refused."""

    def find_class(self, module: str, name: str) -> Any:
        # as pickles of Python 2's protocols, which torch writes, spell them
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        place = f"{module}.{name}"
        if place in OF_TENSORS:
            return Maker(super().find_class(module, name))
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if _runs(module, place):
            raise pickle.UnpicklingError(f"{NAMES} {place}")
        return Shell


def read_torch_file(path: Path) -> Any:
    """What a torch file holds: tensors, plain values, and shells.

    Raises:
        SegRefineryError: it is cut, something else, or names a function that would run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return _with_shells(path, error)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if any(words in str(error) for words in ("central directory", "unexpected EOF")):  # of the new format, the old
            raise SegRefineryError(f"{path}: is cut short, as by half a download; {FETCH}") from error
        if "TorchScript" in str(error):
            raise SegRefineryError(f"{path}: is a TorchScript program; save the state_dict of its module") from error
        raise SegRefineryError(f"{path}: not a readable torch file ({first_line(error)}).") from error


def _with_shells(path: Path, reason: Exception) -> Any:
    try:
        # torch itself runs a program of TorchScript when it is asked for anything
        program = "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError as error:  # no archive, so a file of the old format
        raise _refused(path, reason) from error
    if program:
        raise _refused(path, reason) from reason
    try:
        shells = SimpleNamespace(__name__="shells", Unpickler=ShellUnpickler)
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=shells)
    except Exception as error:  # a name that is refused, or an object of a kind that shells cannot stand for
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> SegRefineryError:
    names = f" ({error})" if str(error).startswith(NAMES) else ""
    return SegRefineryError(
        f"{path}: holds more than tensors{names}, and loading it could run code, so it was not loaded. "
        "Save its state_dict alone, best as .safetensors."
    )


def _runs(module: str, place: str) -> bool:
    module = module.partition(".")[0]
    return module in sys.stdlib_module_names and not {module, place} & HARMLESS


def with_states(loaded: Any) -> Any:
    """What a file holds, with modules as the mapping of their tensors by name."""
    if isinstance(loaded, Shell) and hasattr(loaded, "_modules"):
        return dict(_tensors(loaded))
    if isinstance(loaded, Shell):
        loaded = vars(loaded).get(ITEMS, loaded)
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
    """Refuse a file that is plainly something else than weights, or that is not as it was written.

    Raises:
        SegRefineryError: a pointer of git-lfs, a page of text, nothing, or a torch file whose checksums are others.
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
    if begin.startswith(b"PK") and is_zipfile(path):  # one that is cut is none
        _refuse_damaged(path)


def _refuse_damaged(path: Path) -> None:
    """Compare a torch file with the checksums in it, which torch does not look at.

    Raises:
        SegRefineryError: names the part that differs.
    """
    try:
        with ZipFile(path) as archive:
            summed = any(part.CRC for part in archive.infolist())  # torch.save can leave them away
            damaged = archive.testzip() if summed else None
    except Exception as error:  # of a damaged list of parts it raises many kinds
        raise SegRefineryError(f"{path}: is damaged ({first_line(error)}); {FETCH}") from error
    if damaged is not None:
        raise SegRefineryError(f"{path}: is damaged (the checksum of {damaged} in it is another); {FETCH}")
