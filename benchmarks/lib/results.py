"""Where studies keep what they measured: one JSON-lines file a study, a line a cell."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segrefinery.core.errors import SegRefineryError

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results"
CELLS = Path(os.environ.get("SEGREFINERY_CELLS", BENCHMARKS / ".cells"))
"""The run folders; large, and not part of the repository."""

Place = tuple[str, str, int]
"""Task, row, seed: what a line is found by."""


def read_lines(path: Path) -> dict[Place, dict[str, Any]]:
    """The kept cells of a study, in the order of the file; none if there is no file.

    Raises:
        SegRefineryError: a line is no cell.
    """
    lines: dict[Place, dict[str, Any]] = {}
    if path.exists():
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = json.loads(text)
                lines[place_of(line)] = line
            except (ValueError, KeyError, TypeError) as error:
                raise SegRefineryError(
                    f"{path}, line {number}: no result of a cell; mend the line or remove it"
                ) from error
    return lines


def keep_line(path: Path, line: dict[str, Any]) -> None:
    """Put a cell's line in place of its former one, or at the end. The file is written whole or not at all; other
    threads and processes may keep theirs at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        lines = read_lines(path) | {place_of(line): line}
        part = path.with_suffix(".part")
        part.write_text("".join(f"{json.dumps(each)}\n" for each in lines.values()), encoding="utf-8")
        os.replace(part, path)


def place_of(line: dict[str, Any]) -> Place:
    return line["task"], line["row"], line["seed"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time, threads and processes alike: a lock belongs to an opening of the folder, not to a process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# -- counts of the images ---------------------------------------------------------------------------------------------


def keep_counts(path: Path, counts: np.ndarray) -> None:
    """Keep a model's confusion counts N x C x C of every test image, small enough for the repository: the run folders
    are not part of it, and without the counts no interval can be computed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, per_image=counts.astype(np.uint32))
    os.replace(part, path)


def read_counts(path: Path) -> np.ndarray | None:
    """What ``keep_counts`` kept; None if nothing."""
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["per_image"].astype(np.int64)


def remembered_interval(path: Path, ours: list[str], theirs: list[str], points: float) -> tuple[float, float] | None:
    """The interval of two rows' models that was computed before the counts of their images were kept, or None.

    Args:
        path: JSON lines, each ``{"ours": [...], "theirs": [...], "points": ..., "interval": [low, high]}``.
        ours, theirs: the models by name, a seed each.
        points: their difference; another one than the line's is that of models trained anew.
    """
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    for line in lines:
        if (line["ours"], line["theirs"]) == (ours, theirs) and abs(line["points"] - points) < 0.06:
            return line["interval"][0], line["interval"][1]
    return None
