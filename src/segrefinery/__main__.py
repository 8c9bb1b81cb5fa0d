"""The command. Whoever stops it while its libraries are imported gets one line and no traceback."""

import os
import signal
import sys
from types import FrameType

from segrefinery.core.stopping import STOPS


def main() -> None:
    """Entry point; from ``stoppable`` on, within it, a signal ends what has begun in order."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from segrefinery.cli import main

    main()


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    if os.environ.get("RANK", "0") == "0":
        print("stopped", file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
