"""The report of a run, written anew."""

from __future__ import annotations

from pathlib import Path

from segrefinery.reporting import write_report


def report(run: str | Path) -> Path:
    """Write ``RUN/report.html`` anew from what the run folder holds, finished or not -> its path.

    Raises:
        SegRefineryError: the folder holds no run.
    """
    return write_report(run)
