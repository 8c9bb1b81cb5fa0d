"""Works that are timed side by side: in turns, so that what else the machine does weighs on all alike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping

from segrefinery.core.processor import keep_freed_memory


def rows_and_steps(doc: str | None, rows: Iterable[str], steps: int) -> tuple[list[str], int]:
    """What a script's command line wants timed: its rows, by default all, and how many steps of each."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=(names := list(rows)), action="append", help="by default all")
    parser.add_argument("--steps", type=int, default=steps)
    options = parser.parse_args()
    keep_freed_memory()
    return options.rows or names, options.steps


def take_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call of each work, after two calls that do not count: memory grows in the first."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-2, repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds
