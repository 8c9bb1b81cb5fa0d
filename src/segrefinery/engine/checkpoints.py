"""Checkpoints: one file holds everything that changes in training; written atomically, loaded without running code."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.core.files import whole_file
from segrefinery.stages.optimizers import ScheduledOptimizer

FORMAT = 2
READABLE = (1, FORMAT)
"""The first format had no checksum."""
GO_BACK = "delete it and continue with --resume, which goes back to what came before it"


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        SegRefineryError: the disk is full or the folder cannot be written; what was there before is kept.
    """
    with whole_file(path) as file:
        torch.save({**state, "checksum": checksum(state)}, file)


def checksum(state: Any) -> str:
    """Of all that a state holds, tensors bit for bit; an archive's own is not looked at when it is read."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, state)
    return digest.hexdigest()


def _add(digest: Any, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(part, Mapping):
        for key, value in part.items():
            _add(digest, key)
            _add(digest, value)
    elif isinstance(part, list | tuple):
        for value in part:
            _add(digest, value)
    else:
        digest.update(repr(part).encode())


def load_safely(path: Path) -> dict[str, Any]:
    """Read a file of ours; nothing in it can run code.

    Raises:
        SegRefineryError: missing, damaged, not a plain checkpoint, or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SegRefineryError(f"{path}: no such checkpoint") from None
    except Exception as error:  # a truncated archive and a forbidden pickle raise different types
        reason = first_line(error).partition(". ")[0]
        raise SegRefineryError(f"{path}: not a checkpoint that can be loaded safely ({reason}); {GO_BACK}") from error
    if not isinstance(state, dict) or state.get("format") not in READABLE:
        version = state.get("format") if isinstance(state, dict) else None
        raise SegRefineryError(
            f"{path}: written in checkpoint format {version}, this version reads format {FORMAT}; start the run anew "
            "in an empty folder"
        )
    if state["format"] == FORMAT and state.pop("checksum", None) != checksum(state):
        raise SegRefineryError(f"{path}: is damaged (its checksum is another); {GO_BACK}")
    return state


class Checkpoints:
    """The checkpoints of one stage: ``FOLDER/STAGE-0000100.pt``, a set number of them kept.

    Of the processes of a distributed run one is ``main``; the others read what it writes.
    """

    def __init__(self, folder: Path, stage: str, keep: int = 2, main: bool = True, key: str | None = None) -> None:
        """``key``: all that determines the stage's result; a checkpoint with another is not gone on from."""
        self.folder, self.stage, self.keep, self.main, self.key = folder, stage, keep, main, key
        self.pinned: Path | None = None

    def paths(self) -> list[Path]:
        """Oldest first."""
        pattern = re.compile(re.escape(self.stage) + r"-\d{7}\.pt")
        files = self.folder.glob("*.pt") if self.folder.exists() else ()
        return sorted(path for path in files if pattern.fullmatch(path.name))

    def save(self, step: int, module: nn.Module, trained: dict[str, ScheduledOptimizer]) -> None:
        """Keep the state after ``step`` steps; older checkpoints beyond ``keep`` go only once this one is safe."""
        if not self.main:
            return
        path = self.folder / f"{self.stage}-{step:07d}.pt"
        optimizers = {name: item.optimizer.state_dict() for name, item in trained.items()}
        state = {
            "format": FORMAT,
            "stage": self.stage,
            "key": self.key,
            "step": step,
            "module": module.state_dict(),
            "optimizers": optimizers,
        }
        save_state(state, path)
        for old in self.paths()[: -self.keep]:
            if old != self.pinned:
                old.unlink(missing_ok=True)

    def pin(self, step: int) -> None:
        """Never drop the newest checkpoint from before ``step``, in place of the one pinned before."""
        for path in reversed(self.paths()):
            if step_of(path) < step:
                self.pinned = path
                return

    def set_aside(self) -> None:
        """Give the pinned checkpoint a name that outlives the stage: ``STAGE.good-0000100.pt``."""
        if self.main and self.pinned is not None and self.pinned.exists():
            number = self.pinned.name.removeprefix(self.stage)
            os.replace(self.pinned, self.pinned.with_name(f"{self.stage}.good{number}"))

    def restore(self, module: nn.Module, trained: dict[str, ScheduledOptimizer]) -> int:
        """Load the newest checkpoint into the stage and its optimizers -> steps done; 0 if there is none."""
        paths = self.paths()
        if not paths:
            return 0
        state = load_safely(paths[-1])
        if state.get("key") != self.key:
            raise SegRefineryError(
                f"{paths[-1]}: was written with other data, classes or settings than this run has now; start a new run "
                f"with -o and --reuse {self.folder.parent}, which takes over the stages that have not changed"
            )
        restore_module(module, state["module"], paths[-1])
        for name, item in trained.items():
            rates = [group["base_lr"] for group in item.optimizer.param_groups]
            item.optimizer.load_state_dict(state["optimizers"][name])
            for group, rate in zip(item.optimizer.param_groups, rates, strict=True):
                group["base_lr"] = rate
        return state["step"]

    def clear(self) -> None:
        """Forget the stage's checkpoints, once its result is safe."""
        if self.main:
            for path in self.paths():
                path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The steps done, from a checkpoint's name."""
    return int(path.name.rsplit("-", 1)[1].split(".")[0])


def restore_module(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """``load_state_dict`` with an error a user can act on."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise SegRefineryError(
            f"{path}: does not fit this recipe's model and refiners ({str(error).splitlines()[-1].strip()}); "
            "resume with the recipe the run was started with"
        ) from error
