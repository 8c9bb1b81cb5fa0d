"""Put the studies' tables into the pages that show them, so that their figures are not typed by hand.

    python benchmarks/studies/into_docs.py

The pages are ``docs/benchmarks.md`` and the notes in ``benchmarks/results/``. A place for a table is a pair of
comments, ``<!-- PAGE: TITLE -->`` and ``<!-- end -->``; what stands between them becomes the part below that title of
``benchmarks/results/PAGE.md``, as a script wrote it. ``<!-- overview: STUDY STUDY ... -->`` takes a table of all rows
and tasks of these studies, made from their ``.jsonl`` files, and ``<!-- column: STUDY: HEAD -->`` one column of the
study's page, a line a row and a column a task.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.results import BENCHMARKS, RESULTS, read_lines
from lib.study_table import closed

PLACE = re.compile(r"(<!-- (?P<page>[\w/]+): (?P<title>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
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
    path = RESULTS / f"{page}.md"
    parts = dict(re.findall(r"^##+ (.+?)\n\n(.*?)(?=^##|\Z)", path.read_text(encoding="utf-8"), re.DOTALL | re.M))
    if title not in parts:
        raise SystemExit(f"{path}: has no part {title!r}; it has {', '.join(parts) or 'none'}")
    return parts[title].strip()


def column(study: str, head: str) -> str:
    """Markdown: what a column of a study's page says of each row and task; rows it says nothing of are left out."""
    text = (RESULTS / f"{study}.md").read_text(encoding="utf-8")
    tasks: dict[str, dict[str, str]] = {}
    for task, part in re.findall(r"^### (.+?)\n\n(.*?)(?=^###|\Z)", text, re.DOTALL | re.M):
        first, _, *lines = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if "|" in line
        )
        if head in first:
            at = first.index(head)
            tasks[task] = {line[0]: line[at] for line in lines if line[at]}
    if not tasks:
        raise SystemExit(f"{study}.md: no task has a column {head!r}")
    rows = dict.fromkeys(row for told in tasks.values() for row in told)
    lines = [["row", *tasks], ["---"] * (1 + len(tasks))]
    lines += [[row, *(told.get(row, "") for told in tasks.values())] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def overview(studies: Sequence[str]) -> str:
    """Markdown: a line a row, a column a task; mIoU over seeds, and the share of the gap that it closes."""
    tasks: dict[str, Scores] = {}
    rows: dict[str, None] = {}
    for study in studies:
        for (task, row, seed), line in read_lines(RESULTS / f"{study}.jsonl").items():
            if "error" not in line:
                rows[row] = None
                tasks.setdefault(task, {}).setdefault(row, {})[seed] = line["miou"]
    lines = [["row", *tasks], ["---"] * (1 + len(tasks))]
    lines += [[row, *(score(task, row) for task in tasks.values())] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
