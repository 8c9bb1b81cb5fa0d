"""Put the studies' tables into the pages that show them, so that their figures are not typed by hand.

    python benchmarks/studies/into_docs.py

The pages are ``docs/benchmarks.md`` and the notes in ``benchmarks/results/``. A place for a table is a pair of
comments, ``<!-- PAGE: TITLE -->`` and ``<!-- end -->``; what stands between them becomes the part below that title of
``benchmarks/results/PAGE.md``, as a script wrote it. ``<!-- overview: STUDY STUDY ... -->`` takes a table of all rows
and tasks of these studies, from their ``.yaml`` and ``.jsonl`` files, ``<!-- column: STUDY: HEAD -->`` one column of
the study's page, a line a row and a column a task, and ``<!-- rooms: TASK TASK ... -->`` what the gates of these tasks
leave.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.results import BENCHMARKS, RESULTS, read_lines
from lib.study_table import closed

PLACE = re.compile(r"(<!-- (?P<page>[\w/]+): (?P<title>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
STUDIES = Path(__file__).parent
Scores = dict[str, dict[int, float]]
"""Row -> seed -> mIoU."""


def pages() -> list[Path]:
    return [BENCHMARKS.parent / "docs" / "benchmarks.md", *sorted(RESULTS.rglob("*.md"))]


def filled(text: str) -> str:
    """A page's text with its tables as the results have them."""
    return PLACE.sub(lambda place: f"{place[1]}\n{table(place['page'], place['title'])}\n\n{place[4]}", text)


def table(page: str, title: str) -> str:
    if page == "overview":
        return overview(title.split())
    if page == "column":
        return column(*title.split(": ", 1))
    if page == "rooms":
        return rooms(title.split())
    return part(page, title)


def part(page: str, title: str) -> str:
    """What stands below a title of a page of the results."""
    path = RESULTS / f"{page}.md"
    parts = dict(re.findall(r"^##+ (.+?)\n\n(.*?)(?=^##|\Z)", path.read_text(encoding="utf-8"), re.DOTALL | re.M))
    if title not in parts:
        raise SystemExit(f"{path}: has no part {title!r}; it has {', '.join(parts) or 'none'}")
    return parts[title].strip()


def cells(table: str) -> list[list[str]]:
    """The lines of a Markdown table, its head first, without the rule below it."""
    lines = [line.strip().strip("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines if set(line) - set("-| ")]


def rooms(tasks: Sequence[str]) -> str:
    """Markdown: a line a gate, a column a task."""
    return side_by_side("gate", {task: dict(cells(part(f"gates/{task}", "Room"))[1:]) for task in tasks})


def column(study: str, head: str) -> str:
    """Markdown: what a column of a study's page says of each row and task; rows it says nothing of are left out."""
    text = (RESULTS / f"{study}.md").read_text(encoding="utf-8")
    tasks: dict[str, dict[str, str]] = {}
    for task, below in re.findall(r"^### (.+?)\n\n(.*?)(?=^###|\Z)", text, re.DOTALL | re.M):
        first, *lines = cells(below)
        if head in first:
            at = first.index(head)
            tasks[task] = {line[0]: line[at] for line in lines if line[at]}
    if not tasks:
        raise SystemExit(f"{study}.md: no task has a column {head!r}")
    return side_by_side("row", tasks)


def side_by_side(what: str, tasks: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown: a line for each name that a task has a text for, a column a task."""
    names = dict.fromkeys(name for texts in tasks.values() for name in texts)
    lines = [[what, *tasks], ["---"] * (1 + len(tasks))]
    lines += [[name, *(texts.get(name, "") for texts in tasks.values())] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def overview(studies: Sequence[str]) -> str:
    """Markdown: a line a row, a column a task, in the order of the study files; mIoU over seeds, and the share of the
    gap that it closes. Rows that were not run are left out."""
    tasks: dict[str, Scores] = {}
    rows: dict[str, None] = {}
    for study in studies:
        told = yaml.safe_load((STUDIES / f"{study}.yaml").read_text(encoding="utf-8"))
        rows |= dict.fromkeys(told["rows"])
        tasks |= {task: {} for task in told["tasks"] if task not in tasks}
        for (task, row, seed), line in read_lines(RESULTS / f"{study}.jsonl").items():
            if "error" not in line:
                tasks[task].setdefault(row, {})[seed] = line["miou"]
    run = [row for row in rows if any(row in scores for scores in tasks.values())]
    return side_by_side("row", {task: {row: score(scores, row) for row in run} for task, scores in tasks.items()})


def score(task: Scores, row: str) -> str:
    if row not in task:
        return ""
    points = 100 * np.array(list(task[row].values()))
    spread = f" ± {points.std(ddof=1):.1f}" if len(points) > 1 else ""
    share = closed(task, row)
    return f"{points.mean():.1f}{spread}" + (f", {share}" if share else "")


def main() -> None:
    places = changed = 0
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        places += len(PLACE.findall(old))
        if new != old:
            page.write_text(new, encoding="utf-8")
            changed += 1
    print(f"{places} tables, {changed} pages changed")


if __name__ == "__main__":
    main()
