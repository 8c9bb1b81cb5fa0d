"""Files that are written whole or not at all: no kill, full disk or second reader ever meets half of one."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from segrefinery.core.errors import SegRefineryError, first_line

try:
    import fcntl
except ImportError:  # Windows, where an open file can neither be removed nor moved
    fcntl = None

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
    temporary, handled = None, sys.exception()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        temporary, file = _begun(path.parent)
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if fcntl is None:
                file.close()
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        first = _first_raised(error, handled)
        if not isinstance(first, Exception):  # Ctrl-C
            raise first from None
        raise cannot_write(path, first) from error
    finally:
        if temporary is not None:
            remove(temporary)


def _first_raised(error: BaseException, handled: BaseException | None) -> BaseException:
    """What an error came of, after ``handled``: torch raises one of its own where the file it writes raised one."""
    while (before := error.__cause__ or error.__context__) is not None and before is not handled:
        error = before
    return error


@contextmanager
def whole_folder(path: Path, *unwritable: type[Exception]) -> Iterator[Path]:
    """A folder beside ``path`` to write to; when the block ends without an error it takes the place of ``path``, else
    nothing is left of it.

    Args:
        unwritable: what a library raises where the disk is full, beside ``OSError``.

    Raises:
        SegRefineryError: ``path`` holds something, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise SegRefineryError(f"{path}: is there already; name a new folder with -o")
    temporary = path.with_name(temporary_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        temporary.mkdir()
        with only_writer(temporary):
            yield temporary
            _open_to_readers(temporary)
            if path.exists():
                path.rmdir()
            temporary.replace(path)
    except (OSError, *unwritable) as error:
        reason = getattr(error, "strerror", None) or error
        raise SegRefineryError(f"{path}: cannot be written ({reason}); name another folder with -o") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Give the files in a folder the rights that a new one would have; some libraries close theirs to other users."""
    rights = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(OSError):  # a file system without rights
                path.chmod(stat.S_IMODE(path.stat().st_mode) | rights)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs, where the system can; nothing is left in it, and a dead process holds none.

    Raises:
        SegRefineryError: another process holds it.
    """
    try:
        descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        if descriptor is not None and not _hold(descriptor):
            raise SegRefineryError(
                f"{folder}: another process is writing there; wait for its end, or name another folder with -o"
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def temporary_name() -> str:
    """A name of its own for what is being written, for a longer one than its file's might be too long."""
    return f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}"


def _begun(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file that is held until it is closed, so that nobody takes it for what a dead writer left."""
    while True:
        temporary = folder / temporary_name()
        file = open(temporary, "xb")  # noqa: SIM115
        _hold(file.fileno())
        if temporary.exists():  # another process may have swept it before it was held
            return temporary, file
        file.close()


def _hold(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed -> whether no other process has; True where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write bytes whole or not at all (see ``whole_file``)."""
    with whole_file(path, durable) as file:
        file.write(content)


def refuse_unwritable(path: Path) -> None:
    """Find out before the work of making a file whether its folder, which may have to be made, can be written.

    Raises:
        SegRefineryError: it cannot.
    """
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise cannot_write(path, OSError(errno.EACCES, f"{there} is no folder that can be written"))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 whole or not at all; a file name in it that is no UTF-8 keeps its bytes."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def readable(path: Path) -> Path:
    """The path, of what can be read to its end.

    Raises:
        OSError: it is missing, or a pipe or a device, which might never end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, and no file", str(path))
    return path


def read_json(path: Path, remedy: str = "") -> Any:
    """What a JSON file holds.

    Raises:
        SegRefineryError: it is missing, not readable, not UTF-8 or no JSON; names it, and ``remedy`` if given.
    """
    try:
        return json.loads(readable(path).read_text(encoding="utf-8-sig"))  # what Windows wrote begins with a mark
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
    reason = getattr(error, "strerror", None) or first_line(error)
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


def sweep(folder: Path, below: bool = True) -> None:
    """Remove what writers that were killed left in a folder, and below it; what is being written stays."""
    with suppress(OSError):
        for left in (folder.rglob if below else folder.glob)(f"{_PREFIX}*{_SUFFIX}"):
            if not _is_held(left):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else remove(left)


@lru_cache(4096)
def _sweep_once(folder: Path) -> None:
    """Once a process, where it writes."""
    sweep(folder, below=False)


def _is_held(path: Path) -> bool:
    """Whether a process writes this file or folder; True where that cannot be known."""
    if fcntl is None:
        return path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError:
        return True
    return False


def remove(path: Path) -> None:
    """Remove a file, if it is there and can be."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
