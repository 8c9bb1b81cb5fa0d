"""The tables of a study in Markdown: the mean of each row's seeds, and how far it is ahead of the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lib.intervals import paired_interval
from lib.results import remembered_interval

if TYPE_CHECKING:
    from study import Cell


Rows: TypeAlias = "dict[str, dict[int, tuple[Cell, dict[str, Any]]]]"
"""Row -> seed -> the cell and its result."""


def table(study: dict[str, Any], cells: list[Cell]) -> str:
    """Markdown: one table a task."""
    parts = []
    for task in study["tasks"]:
        rows = finished(cells, task)
        failed = [cell for cell in cells if cell.task == task and cell.done() is None]
        if rows:
            parts.append(f"### {task}\n\n" + task_table(rows, study["baseline"]))
        if failed:
            parts.append("Not finished: " + "; ".join(unfinished(failed)) + ".")
    return "\n\n".join(parts) + "\n"


def finished(cells: list[Cell], task: str) -> Rows:
    """What is done of a task."""
    rows: Rows = {}
    for cell in cells:
        if cell.task == task and (found := cell.done()) is not None:
            rows.setdefault(cell.row, {})[cell.seed] = (cell, found)
    return rows


def unfinished(cells: list[Cell]) -> list[str]:
    """One phrase a row: its seeds, and why they have no result where that is known."""
    rows: dict[str, list[str]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(f"{cell.seed}{why(cell)}")
    return [f"{row} (seed {', '.join(seeds)})" for row, seeds in rows.items()]


def why(cell: Cell) -> str:
    found = cell.kept()
    return f": {found.get('error', 'settings changed')}" if found else ""


def task_table(rows: Rows, baseline: str) -> str:
    """A task's table in Markdown."""
    lines = [*task_rows(rows, baseline)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def task_rows(rows: Rows, baseline: str) -> Iterator[list[str]]:
    """The head of a task's table, then a line for each row; rows that name a baseline of their own (``against``) are
    also compared with that."""
    mean = {row: {seed: found["miou"] for seed, (_, found) in cells.items()} for row, cells in rows.items()}
    against = {row: cell.against for row, cells in rows.items() for cell, _ in cells.values() if cell.against}
    yield [
        "row", "seeds", "own source model", "mIoU", "pixels right", "rare third", f"against {baseline} [95 %]",
        *(["against its own baseline [95 %]"] if against else []), "gap closed", "verdicts", "gain in trust",
        "step ms", "peak MiB",
    ]  # fmt: skip
    for row, cells in rows.items():
        scores = 100 * np.array(list(mean[row].values()))
        rare = 100 * np.array([found["rare_third"] for _, found in cells.values()])
        spread = f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
        steps = [found["step_ms"] for _, found in cells.values() if found["step_ms"]]
        yield [
            row,
            str(len(scores)),
            percent(cells, "before"),
            f"{scores.mean():.1f}{spread}",
            percent(cells, "pixel_accuracy"),
            f"{rare.mean():.1f}",
            difference(rows, row, baseline),
            *([difference(rows, row, against[row]) if row in against else ""] if against else []),
            closed(mean, row),
            ", ".join(found["verdict"] for _, found in cells.values() if "verdict" in found),
            percent(cells, "trust_gain", "+.1f"),
            f"{np.median(steps):.0f}" if steps else "",
            str(max(found["peak_mib"] for _, found in cells.values())),
        ]


def percent(cells: dict[int, tuple[Cell, dict[str, Any]]], key: str, form: str = ".1f") -> str:
    """The mean over the seeds of a share, in per cent; empty where it is not known of all."""
    values = [found[key] for _, found in cells.values() if key in found]
    return format(100 * float(np.mean(values)), form) if len(values) == len(cells) else ""


@dataclass(frozen=True)
class Gain:
    """How far a row's models are above another's, in points of mIoU: the mean over common seeds, and its interval."""

    points: float
    interval: tuple[float, float] | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.points:+.1f}" + (f" [{self.interval[0]:+.1f}, {self.interval[1]:+.1f}]" if self.interval else "")


def gain(rows: Rows, row: str, baseline: str) -> Gain | None:
    """None where the two have no seed in common."""
    seeds = sorted(set(rows.get(row, ())) & set(rows.get(baseline, ())))
    if not seeds:
        return None
    both = [(rows[row][seed], rows[baseline][seed]) for seed in seeds]
    points = 100 * float(np.mean([ours["miou"] - theirs["miou"] for (_, ours), (_, theirs) in both]))
    return Gain(points, interval_of([(ours, theirs) for (ours, _), (theirs, _) in both], points), len(seeds))


def difference(rows: Rows, row: str, baseline: str) -> str:
    """Mean paired difference in mIoU points with its interval."""
    found = None if row == baseline else gain(rows, row, baseline)
    return "" if found is None else str(found)


def interval_of(pairs: list[tuple[Cell, Cell]], points: float) -> tuple[float, float] | None:
    """Of the mean difference of ours to theirs, a pair a seed; None if the counts of an image are not known."""
    counts = [(ours.counts(), theirs.counts()) for ours, theirs in pairs]
    known = [(ours, theirs) for ours, theirs in counts if ours is not None and theirs is not None]
    if len(known) == len(pairs):
        return paired_interval(known)
    names = [[cell.name for cell in side] for side in zip(*pairs, strict=True)]
    return remembered_interval(pairs[0][0].results.parent / "counts" / "intervals.jsonl", *names, points)


def closed(mean: dict[str, dict[int, float]], row: str) -> str:
    """Share of the gap from source-only to oracle, over the row's seeds that source-only has. The oracle's are those of
    them that were run, or what was run."""
    if "source_only" not in mean or "oracle" not in mean:
        return ""
    seeds = set(mean[row]) & set(mean["source_only"])
    bounds = (seeds & set(mean["oracle"])) or set(mean["oracle"])
    if not seeds:
        return ""
    low, reached = (np.mean([mean[name][seed] for seed in seeds]) for name in ("source_only", row))
    high = np.mean([mean["oracle"][seed] for seed in bounds])
    return f"{round(100 * (reached - low) / (high - low))} %" if high > low else ""
