"""How training went: losses, what the labels weighed, and scores, over the steps of every stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from segrefinery.report.charts import line_chart
from segrefinery.report.markup import Markup, element, figure, section
from segrefinery.report.material import Material

SHARES = ("label_", "discriminator_accuracy")
"""Numbers in [0, 1] that a stage tells beside its losses."""
TOLD = ("stage", "step", "kind", "seconds_per_step")
MOST_POINTS = 400


def curves_section(material: Material) -> Markup | None:
    """A chart of losses a stage, one of shares where it has any, and one of scores over all stages."""
    stages = list(dict.fromkeys(record["stage"] for record in material.records))
    charts = []
    for stage in stages:
        trained = [r for r in material.records if r["stage"] == stage and r["kind"] == "train"]
        shares = {name: points for name, points in series(trained).items() if name.startswith(SHARES)}
        losses = {name: points for name, points in series(trained).items() if name not in shares}
        if losses:
            charts.append(
                figure(line_chart(losses, "step", "loss", f"losses of stage {stage}"), _caption(stage, trained))
            )
        if shares:
            chart = line_chart(shares, "step", "share", f"labels of stage {stage}", y_range=(0.0, 1.0))
            charts.append(figure(chart, f"{stage}: weight and confidence of the labels it learned from"))
    charts += _scores(material, stages)
    if not charts:
        return None
    return section("Curves", element("div", charts, class_="charts"))


def _scores(material: Material, stages: list[str]) -> Iterable[Markup]:
    """mIoU and pixel accuracy over the whole run, stages one after the other."""
    looks = [r for r in material.records if r["kind"] in ("look", "evaluation")]
    if not looks:
        return
    first, begin = {}, 0
    for stage in stages:
        first[stage] = begin
        begin += max((r["step"] for r in material.records if r["stage"] == stage), default=0)
    at_end = {(r["stage"], r["step"]) for r in looks if r["kind"] == "evaluation"}
    kept = [r for r in looks if r["kind"] == "evaluation" or (r["stage"], r["step"]) not in at_end]
    placed = [record | {"step": first[record["stage"]] + record["step"]} for record in kept]
    names = {"miou": "mIoU", "pixel_accuracy": "pixels right"}
    drawn = {names[key]: points for key, points in series(placed).items() if key in names}
    chart = line_chart(drawn, "step, all stages", "share", "scores", y_range=(0.0, 1.0), dots=True)
    yield figure(chart, f"Scores on {material.recipe.get('evaluation')}")


def series(records: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Every number of the records over the step; long runs are thinned evenly."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in TOLD and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((float(record["step"]), float(value)))
    return {name: points[:: max(1, -(-len(points) // MOST_POINTS))] for name, points in found.items()}


def _caption(stage: str, trained: list[dict[str, Any]]) -> str:
    seconds = [record["seconds_per_step"] for record in trained if "seconds_per_step" in record]
    pace = f", {sum(seconds) / len(seconds):.2g} s a step" if seconds else ""
    return f"{stage}: losses, already weighted{pace}"
