"""Study files, checked before anything runs: a slip is one line at the start, not a cell that is missing at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose
from segrefinery.recipe import load_recipe

STUDY = ("scale", "seeds", "baseline", "set", "tasks", "rows")
ROW = ("recipe", "tasks", "seeds", "set", "from", "without", "labels", "against")
LABELS = ("count", "by")
RANDOM = "random"
DATA = ("source", "target", "evaluation")
TASK = (*DATA, "oracle", "seeds")


def read_checked(path: Path) -> dict[str, Any]:
    """The contents of a study file.

    Raises:
        SegRefineryError: one line with the file, the row or task, the field and the remedy.
    """
    with at(str(path)):
        try:
            study = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SegRefineryError(f"the study file cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SegRefineryError(f"not valid YAML: {error}") from error
        check_study(study)
    return study


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put the place before what is wrong there, all in one line."""
    try:
        yield
    except SegRefineryError as error:
        raise SegRefineryError(f"{place}: {' '.join(str(error).split())}") from error


def check_study(study: Any) -> None:
    check_keys(study, STUDY, needed=("seeds", "baseline", "tasks", "rows"))
    check_text(study, "scale")
    check_seeds(study)
    check_texts(study, "set", "overrides, for instance [stages.adapt.steps=200]")
    for field in ("tasks", "rows"):
        with at(field):
            check_names(study[field], field)
    for name, task in study["tasks"].items():
        with at(f"task {name!r}"):
            check_task(task)
    for name, row in study["rows"].items():
        with at(f"row {name!r}"):
            check_row(name, {} if row is None else row, study)
    check_text(study, "baseline")
    with at("baseline"):
        choose(study["rows"], study["baseline"], "row")


def check_task(task: Any) -> None:
    check_keys(task, TASK, needed=DATA)
    for field in (*DATA, "oracle"):
        check_text(task, field)
    check_seeds(task)


def check_row(name: str, row: Any, study: Mapping[str, Any]) -> None:
    check_keys(row, ROW)
    check_text(row, "recipe")
    for field in ("from", "against"):
        check_text(row, field)
        if field in row:
            check_above(study, name, field, row[field])
    if row.get("without", ["source"]) != ["source"]:
        raise SegRefineryError(f"without: write [source], or leave the key out (got {row['without']!r})")
    if "without" in row and "from" not in row:
        raise SegRefineryError("without: who does without a source starts from a model; name its row with from")
    if "labels" in row:
        with at("labels"):
            check_labels(name, row["labels"], study)
    check_seeds(row)
    check_texts(row, "set", "overrides, for instance [stages.adapt.steps=200]")
    check_texts(row, "tasks", "tasks of the study")
    with at("tasks"):
        for task in row.get("tasks", ()):
            choose(study["tasks"], task, "task")
        if not row.get("tasks", study["tasks"]):
            raise SegRefineryError("the list is empty; name a task, or leave `tasks` out for all of them")
    recipe, scale = row.get("recipe", name), study.get("scale", "small")
    try:
        load_recipe(recipe, scale, [*study.get("set", []), *row.get("set", [])])
    except SegRefineryError:  # which of the three is at fault?
        with at("recipe" if "recipe" in row else "recipe (not given, so the row's name)"):
            load_recipe(recipe)
        with at("scale"):
            load_recipe(recipe, scale)
        with at("set"):
            raise


def check_above(study: Mapping[str, Any], name: str, field: str, other: str) -> None:
    """A row that another builds on stands above it, so that it is run first."""
    above = dict.fromkeys(list(study["rows"])[: list(study["rows"]).index(name)])
    if other not in above:
        raise SegRefineryError(f"{field}: {other!r} is no row above this one ({', '.join(above) or 'there is none'})")


def check_labels(name: str, labels: Any, study: Mapping[str, Any]) -> None:
    check_keys(labels, LABELS, needed=LABELS)
    if type(labels["count"]) is not int or labels["count"] < 1:
        raise SegRefineryError(f"count: write how many images are labelled, 1 or more (got {labels['count']!r})")
    check_text(labels, "by")
    if labels["by"] != RANDOM:
        check_above(study, name, f"by: write {RANDOM}, or the row whose run is audited", labels["by"])
    if lacking := [task for task, sets in study["tasks"].items() if "oracle" not in sets]:
        raise SegRefineryError(f"task {lacking[0]!r} has no oracle, which the labels are taken from")


def check_keys(given: Any, valid: tuple[str, ...], needed: tuple[str, ...] = ()) -> None:
    if not isinstance(given, Mapping):
        raise SegRefineryError(f"write a mapping with the keys {', '.join(valid)} here (got {given!r})")
    for key in given:
        choose(dict.fromkeys(valid), str(key), "key")
    for key in needed:
        if key not in given:
            raise SegRefineryError(f"{key}: missing; add `{key}: ...`")


def check_names(given: Any, what: str) -> None:
    """Names become folders and files, so that a number, or YAML's yes and no, must stand in quotes."""
    if not isinstance(given, Mapping) or not given:
        raise SegRefineryError(f"write a mapping with at least one name of {what} (got {given!r})")
    for name in given:
        if not isinstance(name, str):
            raise SegRefineryError(f"a name is text (got {name!r}); put it in quotes")


def check_text(given: Mapping[str, Any], field: str) -> None:
    if field in given and not isinstance(given[field], str):
        raise SegRefineryError(f"{field}: write text here, or leave the key out (got {given[field]!r})")


def check_texts(given: Mapping[str, Any], field: str, what: str) -> None:
    found = given.get(field, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise SegRefineryError(f"{field}: write a list of {what} (got {found!r})")


def check_seeds(given: Mapping[str, Any]) -> None:
    """A seed twice would be the same cell twice, run into one folder at the same time."""
    if "seeds" not in given:
        return
    seeds = given["seeds"]
    numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not numbers or not seeds or len(set(seeds)) < len(seeds):
        raise SegRefineryError(f"seeds: write a list of different whole numbers from 0, like [0, 1, 2] (got {seeds!r})")
