"""What the scripts with a command line have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable

from segrefinery.core.errors import SegRefineryError


def one_line_errors(command: Callable[[], None]) -> None:
    """Run a command; bad input is one line and exit code 2, as on the command line of segrefinery."""
    try:
        command()
    except SegRefineryError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
