"""What verdicts said of models whose true mIoU is known: those judged now, and those that studies ended with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lib.results import read_lines


@dataclass
class Judged:
    """A model whose scores and true mIoU are known."""

    task: str
    run: str
    stage: str
    source_only: bool
    miou: float
    scores: dict[str, float]
    verdict: str | None = None
    gain: float | None = None
    """Of the true mIoU over source-only."""


def verdicts(judged: dict[str, list[Judged]], results: Path, known: Collection[str]) -> str:
    """The page: the judged models and those that the studies in ``results`` kept; ``known``: TASK/RUN, on which the
    verdict was chosen."""
    parts = ["# Can the verdicts be believed?", "A true change is one of more than half a point of mIoU."]
    parts_of = known_and_new(with_studies(judged, results), known)
    for title, part in zip(("on which the verdict was chosen", "that came after"), parts_of, strict=True):
        parts += [f"## Runs {title}", verdict_table(part), f"## Opposites among those {title}", opposites(part)]
    return "\n\n".join(parts) + "\n"


def told_by_studies(results: Path) -> list[Judged]:
    """The models that the cells of all studies ended with, by the verdicts of their runs. A cell that several studies
    have in common counts once."""
    models: dict[tuple[str, float], Judged] = {}
    for path in sorted(results.glob("*.jsonl")):
        for line in read_lines(path).values():
            if "verdict" in line:
                run = f"{line['recipe'].replace('/', '_')}-{line['key']}/seed{line['seed']}"
                gain = line["miou"] - line["before"]
                model = Judged(line["task"], run, line["stage"], False, line["miou"], {}, line["verdict"], gain)
                models.setdefault((model.task, model.miou), model)
    return list(models.values())


def with_studies(judged: dict[str, list[Judged]], results: Path) -> dict[str, list[Judged]]:
    """The judged models and those of the studies, by task; where a model is in both, as it was judged."""
    models = {(each.task, each.miou): each for each in told_by_studies(results)}
    models |= {(each.task, each.miou): each for of_task in judged.values() for each in of_task}
    by_task: dict[str, list[Judged]] = {}
    for each in models.values():
        by_task.setdefault(each.task, []).append(each)
    return dict(sorted(by_task.items()))


def known_and_new(
    judged: dict[str, list[Judged]], names: Collection[str]
) -> tuple[dict[str, list[Judged]], dict[str, list[Judged]]]:
    """The models of the runs with these names, and all others."""
    known = {task: [m for m in models if f"{m.task}/{m.run}" in names] for task, models in judged.items()}
    new = {task: [m for m in models if f"{m.task}/{m.run}" not in names] for task, models in judged.items()}
    return known, new


def verdict_table(judged: dict[str, list[Judged]], margin: float = 0.005) -> str:
    """Markdown: what the verdicts said, by what was true (a true change is one of more than ``margin`` mIoU). Rows
    without a model are left out."""
    lines = ["| task | truth | better | no evidence | worse |", "|---|---|---|---|---|"]
    for task, models in judged.items():
        for truth in ("better", "about the same", "worse"):
            group = [m for m in models if truth_of(m, margin) == truth]
            counts = [sum(m.verdict == word for m in group) for word in ("better", "no evidence", "worse")]
            if group:
                lines.append(f"| {task} | {truth} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def opposites(judged: dict[str, list[Judged]], margin: float = 0.005) -> str:
    """Markdown: the models that were called better and are worse, or the other way round."""
    lines = []
    for word, truth in (("better", "worse"), ("worse", "better")):
        every = (model for of_task in judged.values() for model in of_task)
        wrong = [m for m in every if m.verdict == word and truth_of(m, margin) == truth]
        lines.append(f"Called {word} and {truth} in truth: {len(wrong)}\n")
        lines += [f"* {m.task} {m.run} {m.stage}, {100 * (m.gain or 0):+.1f} points" for m in wrong]
        lines += [""] if wrong else []
    return "\n".join(lines).strip()


def truth_of(model: Judged, margin: float) -> str | None:
    """better, about the same or worse than source-only, which alone is none of them."""
    if model.gain is None:
        return None
    return "about the same" if abs(model.gain) <= margin else "better" if model.gain > 0 else "worse"
