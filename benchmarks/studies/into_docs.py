"""Put the studies' tables into docs/benchmarks.md, so that their figures are not typed by hand.

    python benchmarks/studies/into_docs.py

A place for a table is a pair of comments, ``<!-- STUDY: TASK -->`` and ``<!-- end -->``; what stands between them
becomes the part of ``benchmarks/results/STUDY.md`` with that title, as ``study.py`` or ``trust_study.py`` wrote it.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
PLACE = re.compile(r"(<!-- (?P<study>[\w/]+): (?P<task>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(study: str, task: str) -> str:
    """The part of a study's results below a title."""
    path = HERE.parent / "results" / f"{study}.md"
    parts = dict(re.findall(r"^##+ (.+?)\n\n(.*?)(?=^##|\Z)", path.read_text(encoding="utf-8"), re.DOTALL | re.M))
    if task not in parts:
        raise SystemExit(f"{path}: has no task {task!r}; it has {', '.join(parts) or 'none'}")
    return parts[task].strip()


def main() -> None:
    old = PAGE.read_text(encoding="utf-8")
    new = PLACE.sub(lambda place: f"{place[1]}\n{table(place['study'], place['task'])}\n\n{place[4]}", old)
    PAGE.write_text(new, encoding="utf-8")
    print(f"{len(PLACE.findall(old))} tables, {'changed' if new != old else 'as before'}")


if __name__ == "__main__":
    main()
