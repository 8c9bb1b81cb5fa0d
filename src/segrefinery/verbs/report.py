"""The report of a run, written anew."""

from __future__ import annotations

from pathlib import Path

from segrefinery.core.arguments import checked
from segrefinery.engine.folders import run_recipe


@checked
def report(run: str | Path) -> Path:
    """Write ``RUN/report.html`` anew from what the run folder holds, finished or not -> its path.

    Raises:
        SegRefineryError: the folder holds no run.
    """
    run_recipe(run)
    from segrefinery.reporting import write_report  # here, for networks take seconds to import

    return write_report(run)
