"""Recipes as mappings: what a file says laid over what it extends, what a scale says over that, and assignments."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose
from segrefinery.core.yaml import parse_yaml
from segrefinery.refine import by_name

NULL_SAYS_NONE = ("strong",)
"""Mappings that are there by default: removing one would bring the default back, so that a null stays what it says."""


def extend(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's file laid over what it extends. A stage that the file removes is gone at every scale. A scale is a
    change itself: what it removes or replaces is not in it, so that it goes on saying so until ``merge`` lays it over a
    recipe. What a scale says of a chain that the file replaces goes with it."""
    for name, stage in _stages(change).items():
        _refuse_empty(name, stage, _stages(base).get(name))
        if isinstance(stage, Mapping) and isinstance(stage.get("refine"), Mapping) and stage["refine"].get("replace"):
            base = copy.deepcopy(dict(base))
            for scale in (base.get("scales") or {}).values():
                (_stages(scale).get(name) or {}).pop("refine", None)
    result = merge(base, {key: value for key, value in change.items() if key != "scales"})
    if scales := _merge(base.get("scales") or {}, change.get("scales") or {}, is_change=True):
        result["scales"] = scales
    removed = {name for name, stage in _stages(change).items() if stage is None}
    for changes in scales.values():
        if stages := _stages(changes):
            changes["stages"] = {name: stage for name, stage in stages.items() if name not in removed}
    return result


def _refuse_empty(name: str, stage: Any, before: Any) -> None:
    """Refuse a refiner without settings that the chain before does not have: it says to take one out, and may be meant
    to add one.

    Raises:
        SegRefineryError: says what to write.
    """
    chain, old = (each.get("refine") if isinstance(each, Mapping) else None for each in (stage, before))
    if not isinstance(chain, Mapping) or not old or chain.get("replace"):
        return
    there = _as_mapping(old) if isinstance(old, list) else old
    for refiner in (refiner for refiner, settings in chain.items() if settings is None and refiner not in there):
        raise SegRefineryError(
            f"stages.{name}.refine.{refiner}: null takes a refiner out, and the chain has none of that name; write "
            f"{refiner}: {{}} to add it"
        )


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, mappings merged key by key; a null removes a stage or a key. A chain of
    refiners is laid over the one before like any mapping, unless it says ``replace: true``."""
    return _merge(base, change, is_change=False)


def _merge(base: Mapping[str, Any], change: Mapping[str, Any], is_change: bool) -> dict[str, Any]:
    """See ``merge``; ``is_change``: ``base`` is a change too, and so is the result, which keeps what takes away."""
    result = copy.deepcopy(dict(base))
    for key, value in change.items():
        old = result.get(key)
        if key == "refine" and isinstance(value, list):
            value = _as_mapping(value)
        if key == "refine" and isinstance(value, Mapping) and isinstance(value.get("replace"), bool):
            value, old = dict(value), {} if value["replace"] else old
            if not (is_change and value["replace"]):
                del value["replace"]
            result[key] = {}
        removes = value is None and key not in NULL_SAYS_NONE and (isinstance(old, Mapping) or old is None)
        if removes and not is_change:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(old, list):
            result[key] = _merge(_as_mapping(old), value, is_change)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = _merge(old, value, is_change)
        else:
            result[key] = copy.deepcopy(value)
    return result


def for_every_stage(change: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """A scale with its stage ``*`` written out: each stage of the recipe has those changes below its own."""
    stages = dict(_stages(change))
    common = stages.pop("*", None)
    if common:
        for name in _stages(raw):
            if name not in stages or isinstance(stages[name], Mapping):
                stages[name] = _over(common, stages.get(name) or {})
    return {**change, "stages": stages} if stages else {key: value for key, value in change.items() if key != "stages"}


def _over(below: Any, above: Any) -> Any:
    """Mappings laid over each other key by key; unlike ``merge`` it keeps nulls, which have yet to remove something."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def assign(raw: dict[str, Any], override: str) -> None:
    """Carry out ``a.b.c=value`` on a mapping; a list of refiners is addressed by their names.

    Raises:
        SegRefineryError: the override is not of that form, or leads through something that has no parts.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise SegRefineryError(f"--set {override}: write it as a.b.c=value")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise SegRefineryError(f"--set {override}: not valid YAML: {' '.join(str(error).split())}") from error
    *parents, last = path.split(".")
    here: Any = raw
    for depth, part in enumerate(parents):
        inner = here.get(part)
        if isinstance(inner, list) and part == "refine":
            inner = here[part] = _as_mapping(inner)
        if inner is None:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            raise SegRefineryError(f"--set {override}: {'.'.join(parents[: depth + 1])} has no parts to set")
        here = inner
    if value is None and parents[-1:] in (["stages"], ["refine"]):
        try:
            choose(here, last, "stage" if parents[-1] == "stages" else "refiner of this chain")
        except SegRefineryError as error:
            raise SegRefineryError(f"--set {override}: {error}") from error
        del here[last]
    else:
        here[last] = value


def _as_mapping(items: list[Any]) -> dict[str, Any]:
    """As ``by_name``.

    Raises:
        SegRefineryError: in place of its mistakes.
    """
    try:
        return by_name(items)
    except ValueError as error:
        raise SegRefineryError(f"refine: {error}") from error


def _stages(raw: Any) -> Mapping[str, Any]:
    """The stages of a recipe's or a scale's mapping, which may have none."""
    stages = raw.get("stages") if isinstance(raw, Mapping) else None
    return stages if isinstance(stages, Mapping) else {}
