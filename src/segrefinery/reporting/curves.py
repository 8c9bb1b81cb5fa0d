"""How training went: losses, what the labels weighed, and scores, over the steps of every stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from segrefinery.reporting.charts import line_chart
from segrefinery.reporting.markup import Markup, element, figure, section
from segrefinery.reporting.material import Material

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
            what = "the labels it learned from" if any("label" in name for name in shares) else "the discriminators"
            charts.append(figure(chart, f"{stage}: {what}"))
    charts += _scores(material, stages)
    charts += _trust(material, stages)
    told = [r for r in material.records if r["kind"] in ("note", "warning") and "text" in r]
    log = [element("li", f"{r['stage']}, step {r['step']}: {r['text']}") for r in told]
    if not charts and not log:
        return None
    said = element("ul", log, class_="log") if log else None
    return section("Curves", element("div", charts, class_="charts"), said)


def _scores(material: Material, stages: list[str]) -> Iterable[Markup]:
    """mIoU and pixel accuracy over the whole run."""
    at_end = {(r["stage"], r["step"]) for r in material.records if r["kind"] == "evaluation"}
    looks = [r for r in material.records if r["kind"] == "look" and (r["stage"], r["step"]) not in at_end]
    looks += [r for r in material.records if r["kind"] == "evaluation"]
    names = {"miou": "mIoU", "pixel_accuracy": "pixels right"}
    yield from _over_the_run(material, stages, looks, names, f"Scores on {material.recipe.get('evaluation')}")


def _trust(material: Material, stages: list[str]) -> Iterable[Markup]:
    """The scores that need no labels, of which the verdict is made."""
    looks = [r for r in material.records if r["kind"] == "trust"]
    names = {
        "balanced_scale": "agreement with itself at another scale",
        "anchors": "kept anchors",
        "trust": "trust (of both)",
    }
    yield from _over_the_run(material, stages, looks, names, "Label-free scores on target images")


def _over_the_run(
    material: Material, stages: list[str], looks: list[dict[str, Any]], names: dict[str, str], caption: str
) -> Iterable[Markup]:
    """One chart with the stages one after the other, if there is anything to draw."""
    first, begin = {}, 0
    for stage in stages:
        first[stage] = begin
        begin += max((r["step"] for r in material.records if r["stage"] == stage), default=0)
    placed = sorted((r | {"step": first[r["stage"]] + r["step"]} for r in looks), key=lambda r: r["step"])
    drawn = {names[key]: points for key, points in series(placed).items() if key in names}
    if drawn:
        chart = line_chart(drawn, "step, all stages", "share", caption, y_range=(0.0, 1.0), dots=True)
        yield figure(chart, caption)


def series(records: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Every number of the records over the step; long runs are thinned evenly."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in TOLD and isinstance(value, int | float) and not isinstance(value, bool):
                by_name.setdefault(name, []).append((float(record["step"]), float(value)))
    return {name: points[:: max(1, -(-len(points) // MOST_POINTS))] for name, points in by_name.items()}


def _caption(stage: str, trained: list[dict[str, Any]]) -> str:
    seconds = [record["seconds_per_step"] for record in trained if "seconds_per_step" in record]
    pace = f", {sum(seconds) / len(seconds):.2g} s a step" if seconds else ""
    return f"{stage}: losses, already weighted{pace}"
