"""Whether it helped: the verdict, the scores class by class, and what was run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segrefinery.engine.folders import RECIPE
from segrefinery.reporting.markup import Markup, element, percent, section, signed, table
from segrefinery.reporting.material import Material

MOODS = {"better": "good", "worse": "bad"}
SENTENCES = {
    "better": "Better: by label-free evidence, the adapted model beats source-only on this target.",
    "worse": "Worse: by label-free evidence, the adapted model falls behind source-only; use the source-only model.",
    "no evidence": "No evidence that adaptation made the model better or worse than source-only.",
}
HELD_OUT = {
    "held_out": "that were held out from training",
    "cross_fit": "that teach this model, each scored by another one that was trained the same way without it",
}
"""How labelled images came to score, by where ``results.json`` keeps what they say."""


def headline(material: Material) -> Markup:
    """The verdict in a sentence, and the numbers behind it."""
    verdict = material.results.get("verdict")
    sentence, mood = verdict_sentence(material)
    labelled = scores_sentence(material) if verdict else None
    verdict = verdict or {}
    reasons = [element("li", reason) for reason in verdict.get("reasons") or []]
    if verdict.get("chosen"):
        reasons.append(element("li", f"the run ships the model of stage {verdict['chosen']}, chosen without labels"))
    return element(
        "div",
        element("p", sentence, class_="sentence"),
        element("p", "By labels: ", labelled) if labelled else None,
        *(_estimated(material.results.get(key), how) for key, how in HELD_OUT.items()),
        element("ul", reasons, class_="reasons") if reasons else None,
        _tiles(material.results),
        class_=f"verdict {mood}",
        id="verdict",
    )


def verdict_sentence(material: Material) -> tuple[str, str]:
    """The sentence at the top, and its mood: good, bad or open."""
    verdict = material.results.get("verdict")
    if verdict:
        word = str(verdict.get("word"))
        sentence = SENTENCES.get(word, f"Verdict: {word}.") + _difference(verdict)
        return sentence, MOODS.get(word, "open")
    return (
        scores_sentence(material)
        or "There is no evidence yet whether adaptation helped: the run has neither a verdict nor an evaluation set.",
        "open",
    )


def scores_sentence(material: Material) -> str | None:
    """What the labelled evaluation images say."""
    on = material.recipe.get("evaluation")
    before, after = (material.results.get(key) for key in ("source_only", "adapted"))
    if before and after:
        return f"Source-only {percent(before['miou'])} mIoU, adapted {percent(after['miou'])} mIoU on {on}."
    if alone := before or after:
        who = "Source-only" if before else f"Stage {alone['stage']}"
        return f"{who} reaches {percent(alone['miou'])} mIoU on {on}; there is nothing to compare it with."
    return None


def _estimated(estimated: dict[str, Any] | None, how: str) -> Markup | None:
    """What labelled target images say of models that they did not teach."""
    if not estimated:
        return None
    said = [f"{one['name']} {percent(one['miou'])} mIoU ({_span(one['interval'])})" for one in estimated["models"]]
    for one in estimated["models"]:
        if one["difference"] is not None:
            said.append(f"difference {signed(one['difference'])} ({_span(one['difference_interval'], signed)})")
    lead = f"By {estimated['images']} labelled target images {how} (95 % intervals): "
    return element("p", lead, ", ".join(said), ".")


def _span(interval: list[float], shown: Callable[[float], str] = percent) -> str:
    return f"{shown(interval[0])} to {shown(interval[1])}"


def _difference(verdict: dict[str, Any]) -> str:
    """The label-free score's difference, with its interval."""
    difference, interval = verdict.get("difference"), verdict.get("interval")
    if difference is None:
        return ""
    text = f" Label-free trust {difference:+.3f}"
    if interval:
        text += f" (95 % interval {interval[0]:+.3f} to {interval[1]:+.3f})"
    return text.replace(" -", " \N{MINUS SIGN}").replace("(-", "(\N{MINUS SIGN}") + "."


def _tiles(results: dict[str, Any]) -> Markup | None:
    before, after = results.get("source_only"), results.get("adapted")
    tiles = [
        _tile(name, percent(part["miou"]), "mIoU")
        for name, part in (("source-only", before), ("adapted", after))
        if part
    ]
    if before and after:
        tiles.append(_tile("difference", signed(after["miou"] - before["miou"]), "points of mIoU"))
        gain = after["pixel_accuracy"] - before["pixel_accuracy"]
        tiles.append(_tile("pixels right", percent(after["pixel_accuracy"]), f"per cent, {signed(gain)}"))
    return element("div", tiles, class_="tiles") if tiles else None


def _tile(name: str, value: str, unit: str) -> Markup:
    value_ = element("span", value, class_="number")
    return element("div", element("span", name, class_="name"), value_, element("span", unit, class_="unit"))


def classes_section(material: Material) -> Markup | None:
    """IoU of every class, source-only beside adapted."""
    results = material.results
    before, after = results.get("source_only"), results.get("adapted")
    if not before and not after:
        return None
    columns = [(name, part) for name, part in (("source-only", before), ("adapted", after)) if part]
    rows = [_row(name, [part["iou"].get(name) for _, part in columns]) for name in results["classes"]]
    mean = _row("mean", [part["miou"] for _, part in columns])
    head = ["class", *(name for name, _ in columns), *(["difference"] if len(columns) == 2 else [])]
    lead = (
        f"Intersection over union on {material.recipe.get('evaluation')}, in per cent, of every pixel with a label. "
        "A class that occurs neither in the labels nor in the predictions is absent and does not count in the mean."
    )
    return section("Class by class", table(head, [*rows, mean], class_="scores"), *_by_set(columns), lead=lead)


def _by_set(columns: list[tuple[str, dict[str, Any]]]) -> list[Markup]:
    """The mean on each of several data sets that were scored on."""
    sets = [part.get("sets") or {} for _, part in columns]
    if not sets[0]:
        return []
    rows = [_row(name, [(scores.get(name) or {}).get("miou") for scores in sets]) for name in sets[0]]
    head = ["mean on", *(name for name, _ in columns), *(["difference"] if len(columns) == 2 else [])]
    return [table(head, rows, class_="scores")]


def _row(name: str, values: list[float | None]) -> list[Any]:
    cells: list[Any] = [name]
    for place, value in enumerate(values):
        if value is None:
            cells.append(element("td", "absent", class_="absent"))
            continue
        share = f"--share: {value:.4f}"
        bar = element("span", class_=f"meter meter-{place + 1 if len(values) > 1 else 2}", style=share)
        cells.append(element("td", element("span", percent(value), class_="value"), bar, class_="score"))
    if len(values) == 2:
        first, second = values
        if first is None or second is None:
            cells.append(element("td", "\N{EN DASH}", class_="absent"))
        else:
            change = second - first
            mood = "good" if change > 5e-4 else "bad" if change < -5e-4 else None
            cells.append(element("td", signed(change), class_=f"change {mood}" if mood else "change"))
    return cells


def run_section(material: Material) -> Markup:
    """Recipe, data, classes, seed, versions and machine."""
    recipe, environment = material.recipe, material.environment
    space = material.space
    classes = ", ".join(space.classes) if space else "not known yet"
    stages = " \N{RIGHTWARDS ARROW} ".join(
        f"{name} ({settings.get('kind')}, {settings.get('steps')} steps)" for name, settings in recipe["stages"].items()
    )
    model = recipe.get("model", {})
    facts: list[tuple[str, Any]] = [
        ("Recipe", f"{recipe.get('name')}, scale {recipe.get('scale')}"),
        ("What it does", " ".join(recipe.get("about", "").split())),
        ("Stages", stages),
        ("Network", f"that of {model['from']}, which is the start and what source-only means here")
        if model.get("from")
        else ("Network", f"{model.get('name')}, starting from {model.get('weights') or 'its default'} weights"),
        ("Source (labelled)", recipe.get("source") or "none"),
        ("Target (labels never read)", recipe.get("target")),
        ("Labels (target images that taught)", _labels(material)),
        ("Evaluation (scores only)", recipe.get("evaluation") or "none"),
        ("Classes", f"{space.num_classes if space else ''}: {classes}"),
        ("Seed", recipe.get("seed")),
        ("Machine", _machine(environment)),
        ("Versions", ", ".join(f"{name} {number}" for name, number in environment.get("packages", {}).items())),
    ]
    rows = [
        element("div", element("dt", name), element("dd", value)) for name, value in facts if value not in ("", None)
    ]
    text = (material.folder / RECIPE).read_text(encoding="utf-8")
    whole = element("details", element("summary", "The whole recipe, as it ran"), element("pre", text))
    return section("What was run", element("dl", rows, class_="facts"), whole)


def _labels(material: Material) -> Markup | None:
    """Which labelled target images taught, and which were held out."""
    if not (taught := material.labels.get("taught")):
        return None
    held_out = material.labels.get("held_out") or []
    lists = [("taught", taught)] + ([("held out", held_out)] if held_out else [])
    said = (f"{len(names)} {word}: {', '.join(names)}" for word, names in lists)
    return element("span", f"{material.recipe.get('labels')}. ", ". ".join(said), ".")


def _machine(environment: dict[str, Any]) -> str:
    if not environment:
        return ""
    gpu = environment.get("gpu")
    parts = [environment.get("processor"), f"{environment.get('cores')} cores", gpu or "no accelerator"]
    parts.append(f"Python {environment.get('python')} on {environment.get('system')}")
    return ", ".join(str(part) for part in parts if part)
