"""A study as one page with curves and pictures: what its table cannot show.

    python benchmarks/studies/study_page.py benchmarks/studies/methods.yaml

For each task: the table, every seed's mIoU, the IoU of every class, what the rows learned from while they adapted (the
first seed), and what their models make of a few evaluation images. Reads finished cells; writes
``benchmarks/results/STUDY.html``, one file that needs nothing else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from lib.results import RESULTS
from lib.study_table import finished, task_rows
from segrefinery.data.align import align
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.engine.model import load
from segrefinery.engine.tracker import records
from segrefinery.reporting.charts import bar_rows, line_chart
from segrefinery.reporting.curves import series
from segrefinery.reporting.gallery import class_legend
from segrefinery.reporting.markup import Markup, element, figure, section, table
from segrefinery.reporting.page import page
from segrefinery.reporting.pictures import label_map, photo
from study import Cell, read_study

PICTURES = 3
CURVES = {
    "label_weight": "share of the target's pixels that is learned",
    "label_confidence": "confidence of the teacher",
}

Rows = dict[str, dict[int, tuple[Cell, dict[str, Any]]]]


def task_section(task: str, rows: Rows, baseline: str) -> Markup:
    head, *lines = task_rows(rows, baseline)
    seeds = sorted({seed for cells in rows.values() for seed in cells})
    scores = {
        f"seed {seed}": [cells[seed][1]["miou"] if seed in cells else None for cells in rows.values()] for seed in seeds
    }
    firsts = {row: cells[min(cells)][0] for row, cells in rows.items()}
    return section(
        task,
        table(head, lines),
        element("h3", "mIoU of every seed"),
        bar_rows(list(rows), scores, f"mIoU on {task}"),
        element("h3", "IoU by class, %, mean over seeds"),
        classes_table(rows),
        element("h3", f"While they adapted (seed {seeds[0]})"),
        element("div", curves(firsts), class_="charts"),
        element("h3", f"The same evaluation images (seed {seeds[0]})"),
        pictures(firsts),
    )


def classes_table(rows: Rows) -> Markup:
    """A line a row, a column a class of any cell."""
    classes = list(
        dict.fromkeys(name for cells in rows.values() for _, found in cells.values() for name in found["iou"])
    )
    lines = []
    for row, cells in rows.items():
        values = [[found["iou"].get(name) for _, found in cells.values()] for name in classes]
        known = [[100 * value for value in each if value is not None] for each in values]
        lines.append([row, *(f"{np.mean(each):.0f}" if each else "" for each in known)])
    return table(["row", *classes], lines)


def curves(cells: dict[str, Cell]) -> list[Markup]:
    """One chart for each number that self-training tells, over the steps of the last stage."""
    told: dict[str, dict[str, Any]] = {name: {} for name in CURVES}
    for row, cell in cells.items():
        trained = [record for _, record in records(cell.folder / "metrics.jsonl") if record["kind"] == "train"]
        last = [record for record in trained if record["stage"] == trained[-1]["stage"]]
        for name, points in series(last).items():
            if name in told:
                told[name][row] = points
    return [
        figure(line_chart(found, "step", "share", what, y_range=(0.0, 1.0)), what)
        for name, what in CURVES.items()
        if (found := told[name])
    ]


@torch.no_grad()
def pictures(cells: dict[str, Cell]) -> Markup:
    """A few evaluation images, evenly spread over the set: the image, the reference, what every row makes of it."""
    first = next(iter(cells.values()))
    dataset = open_dataset(first.sets["eval"])
    models = {row: load(cell.folder) for row, cell in cells.items()}
    space = next(iter(models.values())).space
    known = align(dataset, UnlabeledView(dataset), dataset, space=space).evaluation
    cards = []
    for index in np.linspace(0, len(dataset) - 1, PICTURES + 2).round().astype(int)[1:-1].tolist():
        image, reference = known.image(index), known.label(index).long()
        shown = [figure(photo(image, "image"), "image"), figure(solid(reference, space, "reference"), "reference")]
        for row, model in models.items():
            found = model.predict(image, (reference.shape[-2], reference.shape[-1])).argmax(dim=0)
            shown.append(figure(solid(found, model.space, row), row))
        cards.append(element("article", element("h4", known.name(index)), element("div", shown, class_="pictures")))
    return element("div", class_legend(space), cards)


def solid(label: torch.Tensor, space: Any, alt: str) -> Markup:
    return label_map(label, space, alt, class_="solid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--output", type=Path, help="by default benchmarks/results/STUDY.html")
    arguments = parser.parse_args()
    study, cells = read_study(arguments.study)
    tasks = {task: rows for task in study["tasks"] if (rows := finished(cells, task))}
    if not tasks:
        parser.error(f"no cell is finished; first: python benchmarks/studies/study.py run {arguments.study}")
    about = f"{sum(len(cells) for rows in tasks.values() for cells in rows.values())} runs; {machine()}"
    body = [task_section(task, rows, study["baseline"]) for task, rows in tasks.items()]
    output = arguments.output or RESULTS / f"{arguments.study.stem}.html"
    output.write_text(
        page(f"Study: {arguments.study.stem}", about, body, "Commands: docs/benchmarks.md"), encoding="utf-8"
    )
    print(output)


if __name__ == "__main__":
    main()
