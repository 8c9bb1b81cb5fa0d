"""How a command ends that is stopped: it says how to go on, and with the exit code that the system expects."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)
"""The signals that end a command in words."""
_ALARM = getattr(signal, "SIGALRM", None)  # not on Windows
_PATIENCE = 0.2
"""Seconds after which a stop that a library has swallowed is raised again."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. No ``KeyboardInterrupt``, which the library of commands would answer itself."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, the first Ctrl-C or SIGTERM raises ``Stopped``, as often as a library's bare ``except`` swallows it; a
    second one ends the process at once. What fails because of it is ``Stopped`` too. Processes that were forked from
    this one leave Ctrl-C to it. A signal that was ignored stays ignored."""
    owner, asked = os.getpid(), []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        signal.signal(number, signal.SIG_DFL)
        asked.append(number)
        if _ALARM is not None:
            signal.signal(_ALARM, again)
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE, _PATIENCE)
        raise Stopped(number)

    def again(number: int, frame: FrameType | None) -> None:
        del number, frame
        if not _is_stopping(sys.exception()):
            raise Stopped(asked[0])

    # A shell ignores Ctrl-C in what a script runs behind it (``command &``): what is ignored stays so.
    before = {number: signal.signal(number, stop) for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN}
    if _ALARM is not None:
        before[_ALARM] = signal.getsignal(_ALARM)
    try:
        yield
    except Exception as error:
        if asked:
            raise Stopped(asked[0]) from error
        raise
    finally:
        if asked and _ALARM is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_stopping(handled: BaseException | None) -> bool:
    """Whether what is being handled is ``Stopped``, or came of it."""
    while handled is not None and not isinstance(handled, Stopped):
        handled = handled.__context__
    return handled is not None
