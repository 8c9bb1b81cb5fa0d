"""How a command ends that is stopped: it says how to go on, and with the exit code that the system expects."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)
"""The signals that end a command in words."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. No ``KeyboardInterrupt``, which the library of commands would answer itself."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, the first Ctrl-C or SIGTERM raises ``Stopped``; a second one ends the process at once. Processes that
    were forked from this one leave Ctrl-C to it."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
