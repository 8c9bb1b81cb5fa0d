"""Works that are timed side by side: in turns, so that what else the machine does weighs on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


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
