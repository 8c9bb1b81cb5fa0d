"""What the five papers claim, put to the test: holds, does not hold, or open, by task and with its interval.

    python benchmarks/studies/claims.py

Reads ``lib/claims.yaml`` and the finished cells of the studies that it names; writes ``benchmarks/results/claims.md``.
A claim holds on a task if the 95 % interval over images and seeds of its gain lies above zero, and does not hold if it
lies below.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from into_docs import cells, part
from lib.command import one_line_errors
from lib.results import RESULTS
from lib.study_table import Gain, finished, gain
from segrefinery.core.errors import SegRefineryError
from study import Cell, read_study

STUDIES = Path(__file__).parent
CLAIMS = STUDIES.parent / "lib" / "claims.yaml"
TASKS = {"day2night": "scenes", "carla2camvid": "carla2camvid", "day2dusk": "day2dusk"}
"""Each task, and what its gates are called."""


@cache
def studied(name: str) -> tuple[dict[str, Any], list[Cell]]:
    return read_study(STUDIES / f"{name}.yaml")


def gains(claim: dict[str, Any]) -> dict[str, Gain]:
    """By task: how far the claim's row is above what it claims to beat, where both were run.

    Raises:
        SegRefineryError: the study has no such row.
    """
    study, of_study = studied(claim["study"])
    for row in (claim["row"], claim["against"]):
        if row not in study["rows"]:
            raise SegRefineryError(f"claims.yaml, {claim['claim']!r}: {claim['study']}.yaml has no row {row!r}")
    found = {task: gain(finished(of_study, task), claim["row"], claim["against"]) for task in TASKS}
    return {task: each for task, each in found.items() if each is not None}


def word(found: Gain) -> str:
    if found.interval is None:
        return "open"
    low, high = found.interval
    return "holds" if low > 0 else "does not hold" if high < 0 else "open"


def line(claim: dict[str, Any]) -> str:
    """The claim as a line of the table; without gains, one that says that it was not run."""
    found = gains(claim)
    tasks = [f"{word(found[task])}: {found[task]}, {seeds(found[task])}" if task in found else "" for task in TASKS]
    return "| " + " | ".join([claim["claim"], claim.get("published", ""), *tasks]) + " |"


def seeds(found: Gain) -> str:
    return f"{found.seeds} seed" + "s" * (found.seeds > 1)


def gate(name: str) -> str:
    """What a gate left, before the method was run, as a paragraph."""
    pages = {task: RESULTS / "gates" / f"{gates}.md" for task, gates in TASKS.items()}
    rooms = {task: dict(cells(part(f"gates/{path.stem}", "Room"))) for task, path in pages.items() if path.exists()}
    return f"Gate, {name}: " + "; ".join(f"{task}: {room[name]}" for task, room in rooms.items() if name in room) + "."


def page() -> str:
    papers = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    parts = [
        "# What the papers claim",
        "`python benchmarks/studies/claims.py`: gain in points of mIoU with its 95 % interval, at scale small. A claim "
        "holds where the interval lies above zero, does not hold where it lies below; empty: not run. A gate tells "
        "what the source model alone shows ([all](gates/)).",
        "\n".join(counted(task, [each for claims in papers.values() for each in claims]) for task in TASKS),
    ]
    for paper, claims in papers.items():
        head = ["claim", "published", *TASKS]
        rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *map(line, claims)]
        gates = dict.fromkeys(each["gate"] for each in claims if "gate" in each)
        parts += [f"## {paper}", "\n".join(rows), *map(gate, gates)]
    return "\n\n".join(parts) + "\n"


def counted(task: str, claims: list[dict[str, Any]]) -> str:
    """How many of the claims hold on a task."""
    words = Counter(word(found[task]) if task in found else "not tested" for found in map(gains, claims))
    told = [f"{each}: {words[each]}" for each in ("holds", "does not hold", "open", "not tested")]
    return f"- {task}, {len(claims)} claims: {', '.join(told)}"


def main() -> None:
    text = page()
    (RESULTS / "claims.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    one_line_errors(main)
