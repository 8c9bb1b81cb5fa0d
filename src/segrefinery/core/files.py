"""Files that are written whole or not at all: no kill, full disk or second reader ever meets half of one."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from segrefinery.core.errors import SegRefineryError, first_line

P = ParamSpec("P")
R = TypeVar("R")
_PREFIX, _SUFFIX = ".writing-", ".tmp"


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write to; when the block ends without an error it takes the place of ``path``, which
    stays as it was until then. Missing folders are made.

    Args:
        durable: also outlive a power cut, which takes a moment; a killed process never leaves half a file either way.

    Raises:
        SegRefineryError: the disk is full or the folder cannot be written.
    """
    # A name of its own, for a longer one than ``path`` might be too long.
    temporary = path.with_name(f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
        raise cannot_write(path, error) from error
    finally:
        remove(temporary)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write bytes whole or not at all (see ``whole_file``)."""
    with whole_file(path, durable) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 whole or not at all; a file name in it that is no UTF-8 keeps its bytes."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path, remedy: str = "") -> Any:
    """What a JSON file holds.

    Raises:
        SegRefineryError: it is missing, not readable, not UTF-8 or no JSON; names it, and ``remedy`` if given.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: Path, error: Exception, remedy: str = "") -> SegRefineryError:
    """The one line about a file that cannot be read."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return SegRefineryError(f"{path}: cannot be read ({reason})" + (f"; {remedy}" if remedy else ""))


def read_once(most: int) -> Callable[[Callable[Concatenate[Path, P], R]], Callable[Concatenate[Path, P], R]]:
    """For a function that reads a file: it does so once as long as the file keeps its size and time. What it returned
    of the last ``most`` files is kept."""

    def wrap(read: Callable[Concatenate[Path, P], R]) -> Callable[Concatenate[Path, P], R]:
        kept = lru_cache(most)(lambda path, stamp, *more, **named: read(path, *more, **named))

        @wraps(read)
        def call(path: Path, *more: P.args, **named: P.kwargs) -> R:
            return kept(path, _stamp(path), *more, **named)

        return call

    return wrap


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none, which its reader says better."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def cannot_write(path: Path, error: Exception) -> SegRefineryError:
    """The one line about a file that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return SegRefineryError(
        f"{path}: cannot be written ({reason}); what was there before is kept. Free some space, or name a folder that "
        "can be written; a run continues with --resume"
    )


def cache_folder() -> Path:
    """``SEGREFINERY_CACHE`` if set, else the platform's folder for caches."""
    if named := os.environ.get("SEGREFINERY_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "segrefinery" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "segrefinery"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segrefinery"


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in a folder and below it; only for who alone writes there."""
    for left in folder.rglob(f"{_PREFIX}*{_SUFFIX}"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, if it is there and can be."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
