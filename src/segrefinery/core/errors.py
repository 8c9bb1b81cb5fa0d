"""Errors a user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SegRefineryError(Exception):
    """A mistake in what the user gave us: names the file or field, what is wrong, and the remedy.

    The command line prints it as one line and exits with status 2.
    """


class OutOfMemory(SegRefineryError):
    """The device or the machine has no memory left: names the place and what would need less."""


@contextmanager
def explained_if_out_of_memory(place: str, remedy: str) -> Iterator[None]:
    """Turn torch's errors about memory, of GPUs and of processors, into ``OutOfMemory``; others pass."""
    try:
        yield
    except RuntimeError as error:
        # By name, for this module does without torch; on a processor only the text tells it from other errors.
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"{place}: out of memory ({first_line(error)}). To need less, {remedy}") from error


def first_line(error: BaseException | None) -> str:
    """What another library's error begins with, at most 300 characters; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def as_given(value: object) -> str:
    """A value that somebody gave, in one line of at most 80 characters; a data set or a module shows itself in many."""
    return " ".join(repr(value).split())[:80]


def in_one_line(error: Exception) -> str:
    """A mistake, or what the system refuses, in the words for its user."""
    if isinstance(error, MemoryError):
        return "the memory of this machine does not suffice; free some, or give smaller images"
    if isinstance(error, OSError) and not isinstance(error, SegRefineryError):
        remedy = "; check its permissions, or name another place" if isinstance(error, PermissionError) else ""
        return f"{error.filename or 'the system'}: {error.strerror or error}{remedy}"
    return " ".join(str(error).splitlines())
