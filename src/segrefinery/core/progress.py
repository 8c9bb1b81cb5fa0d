"""How far a command is: bars on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from segrefinery.core.words import printable

EVERY = 60.0
"""Seconds between lines that name the losses."""


class TrainingProgress:
    """Told of every step: moves a bar for each stage, and once a minute, and at a stage's end, prints a line that names
    the losses. A pass over images has a bar while it lasts, and no losses."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self.console, self.bars = console, bars
        self.tasks: dict[str, TaskID] = {}
        self.began: dict[str, tuple[float, int]] = {}
        self.told = time.monotonic()

    def __call__(self, name: str, done: int, steps: int, losses: Mapping[str, float]) -> None:
        """Of a stage: its name, the steps done, the steps in all, and the losses by name."""
        now = time.monotonic()
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(printable(name), total=steps)
            self.began[name] = (now, done)
        self.bars.update(self.tasks[name], completed=done)
        ended = done >= steps
        if (ended and losses) or now - self.told >= EVERY:
            self.told = now
            line = printable(self.line(name, done, steps, losses, now))
            self.console.print(line, markup=False, soft_wrap=True)
        if ended and not losses:
            self.bars.remove_task(self.tasks.pop(name))

    def line(self, name: str, done: int, steps: int, losses: Mapping[str, float], now: float) -> str:
        parts = [f"{name} {done}/{steps}", *(f"{key} {value:.3f}" for key, value in losses.items())]
        began, first = self.began[name]
        if done > first:
            rate = (now - began) / (done - first)
            parts += [f"{rate:.2g} s a step"] if losses else []
            parts += [f"{clock((steps - done) * rate)} left"] if done < steps else []
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def training_progress(console: Console) -> Iterator[TrainingProgress]:
    """A bar with the time left for each stage, and lines with the losses."""
    with _bars(console) as bars:
        yield TrainingProgress(console, bars)


@contextmanager
def counting_progress(console: Console, what: str) -> Iterator[Callable[[float, int], None]]:
    """A bar over a number of images; a part of a large one counts too."""
    with _bars(console) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
