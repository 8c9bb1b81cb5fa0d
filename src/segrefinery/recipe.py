"""Recipes: typed, validated before anything starts, one YAML file a method."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import readable
from segrefinery.core.settings import BUDGET, Mistake, Settings, beyond_budget, choose, mistakes_of
from segrefinery.core.yaml import parse_yaml
from segrefinery.data.settings import LONGEST_SIDE, DataSettings, Reference
from segrefinery.engine.settings import TrainingSettings
from segrefinery.models import RunModelSettings
from segrefinery.models.networks import network
from segrefinery.stages.overlay import assign, extend, for_every_stage, merge
from segrefinery.stages.parse import parse_stages
from segrefinery.stages.settings import StageSettings

FORMAT = 1


_Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE)]


class Recipe(Settings):
    """Stages, data, model and budget, and the data sets and seed it was given: all that determines a run."""

    format: int = FORMAT
    """Names the version of the recipe's format."""
    name: str
    """Names the recipe."""
    about: str = ""
    """Says what the recipe does and where it comes from; its first sentence stands in the list of recipes."""
    model: RunModelSettings
    """Chooses the network, its weights, and a trained model to start from."""
    data: DataSettings
    """Says how source images are read, cropped and batched."""
    target_data: DataSettings
    """Says how target images are read: ``data`` with what is given here laid over it (another ``short_side``, say)."""
    training: TrainingSettings = TrainingSettings()
    """Says how a run trains, whatever its stages."""
    window: Annotated[tuple[_Side, _Side] | None, BUDGET] = None
    """Predicts in overlapping windows of this height and width, on the resized image; by default the whole image."""
    stages: Annotated[dict[str, SerializeAsAny[StageSettings]], BeforeValidator(parse_stages)]
    """Lists the stages by name, in order."""
    scale: Annotated[str, BUDGET] = "paper"
    """Remembers the budget: ``paper``, the settings of the publication; ``small``, two processor cores; or another that
    the recipe names."""
    seed: int = Field(default=0, ge=0)
    """Determines everything random."""
    source: Reference = None
    """Names the labelled images, as NAME:PATH[@SPLIT]; of several data sets a list. A run that starts from a
    trained model may do without."""
    target: Reference = None
    """Names the images to adapt to; their labels, where they have any, are not read."""
    labels: Reference = None
    """Names labelled images of the target domain that teach; none of them may be in the evaluation set."""
    evaluation: Reference = None
    """Names labelled images of the target domain, for evaluation only."""
    oracle: str | None = None
    """Names labelled images of the target domain, for an oracle stage only."""
    classes: tuple[str, ...] | None = None
    """Trains these classes only, by name; by default all that source and target have in common."""
    merge: dict[str, str | None] | None = None
    """Renames classes on both sides before they are compared: name -> name, or null to ignore the class."""
    translated: str | None = None
    """Names a folder of the source images in the target's style, made by any other tool and matched by file name; they
    take the place of the source images and keep their labels (BDL, SAM)."""

    @property
    def summary(self) -> str:
        """The first sentence of ``about``, in one line."""
        return re.split(r"(?<=[.!?])(?<! al\.)\s+(?=[A-Z])", " ".join(self.about.split()))[0]

    @model_validator(mode="before")
    @classmethod
    def _fill_in_target_data(cls, given: Any) -> Any:
        """``target_data`` says only what differs from ``data``; a null crop is that of ``data``."""
        if not isinstance(given, Mapping) or not isinstance(given.get("data"), Mapping):
            return given
        differing = given.get("target_data") or {}
        if not isinstance(differing, Mapping):
            return given
        differing = {key: value for key, value in differing.items() if key != "crop" or value is not None}
        return {**given, "target_data": {**given["data"], **differing}}

    @model_validator(mode="after")
    def _statistics_of_the_network(self) -> Self:
        """What a stage does not say of batch norm is as its network has it."""
        for name, stage in self.stages.items():
            self.stages[name] = stage.on_network(network((stage.model or self.model).name).statistics)
        return self

    @model_validator(mode="after")
    def _mixed_images_have_one_size(self) -> Self:
        for name, stage in self.stages.items():
            for field in ("crop", "batch"):
                source, target = getattr(self.data, field), getattr(self.target_data, field)
                if getattr(stage, field) is not None or source == target:
                    continue
                if stage.mixes:
                    raise ValueError(
                        f"stages.{name} mixes source and target images, but data.{field} is {source} and "
                        f"target_data.{field} is {target}; make them equal, or set stages.{name}.{field}"
                    )
                if field == "batch" and stage.takes_target:
                    raise ValueError(
                        f"stages.{name} takes as many target images a step as source images, but data.batch is "
                        f"{source} and target_data.batch is {target}; make them equal, or set stages.{name}.batch"
                    )
        return self

    @model_validator(mode="after")
    def _batches_split_evenly(self) -> Self:
        parts = self.training.accumulate
        for name, stage in self.stages.items():
            field, data = ("target_data", self.target_data) if stage.reads_target_labels else ("data", self.data)
            images = (f"{field}.batch", data.batch) if stage.batch is None else (f"stages.{name}.batch", stage.batch)
            for field, batch in (images, (f"stages.{name}.labelled.batch", stage.labelled.batch or parts)):
                if batch % parts == 0:
                    continue
                divisors = " or ".join(str(number) for number in range(1, batch + 1) if batch % number == 0)
                raise ValueError(
                    f"training.accumulate is {parts}, but {field} is {batch}, which does not split into {parts} equal "
                    f"parts; set training.accumulate to {divisors}, or {field} to a multiple of {parts}"
                )
        return self


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _shipped().iterdir() if path.name.endswith(".yaml"))


def load_recipe(
    name: str | Path | Recipe, scale: str | None = None, overrides: Sequence[str] = (), **fields: Any
) -> Recipe:
    """A recipe by name, from a YAML file, or one that is there already, with what is laid over it.

    Args:
        scale: name of one of the recipe's ``scales``; None or ``paper`` leaves the settings of the paper.
        overrides: ``a.b.c=value`` assignments, the value read as YAML.
        fields: of ``Recipe`` to set, for instance ``source`` and ``seed``.

    Raises:
        SegRefineryError: names the file, the place in it and the valid choices.
    """
    refuse_odd_arguments(name, scale, overrides, fields)
    *_, (_, raw) = layers(name, scale, overrides, fields)
    result = recipe_or_mistakes(raw)
    if isinstance(result, Recipe):
        refuse_another_method(name, scale)
        return result
    # Whoever a mistake came with is to blame. We look for them only now: parts of a recipe need not be valid.
    blamed: dict[Mistake, str] = {}
    for who, so_far in layers(name, scale, overrides, fields):
        now = recipe_or_mistakes(so_far)
        now = [] if isinstance(now, Recipe) else now
        blamed = {mistake: blamed.get(mistake, who) for mistake in now}
    raise SegRefineryError("; ".join(f"{blamed[mistake]}{mistake}".rstrip(".") for mistake in result))


def refuse_odd_arguments(name: Any, scale: Any, overrides: Any, fields: Mapping[str, Any]) -> None:
    """Refuse what is no recipe, scale or list of assignments, and assignments that something else would undo.

    Raises:
        SegRefineryError: names the argument.
    """
    if not isinstance(name, str | Path | Recipe):
        raise SegRefineryError(f"recipe: a name or the path of a YAML file expected, got {name!r}")
    if not isinstance(scale, str | None):
        raise SegRefineryError(f"scale: the name of one expected, got {scale!r}")
    if not isinstance(overrides, list | tuple) or not all(isinstance(each, str) for each in overrides):
        raise SegRefineryError(f"overrides: a list of 'a.b.c=value' expected, got {overrides!r}")
    for override in overrides:
        if override.partition("=")[0] == "scale":
            raise SegRefineryError(f"--set {override}: that only remembers a scale; choose one with --scale")
    for key, value in fields.items():
        refuse_said_twice(overrides, key, value, f"--{key}")


def refuse_said_twice(overrides: Sequence[str], key: str, value: Any, option: str) -> None:
    """Refuse an assignment of what an option says too; None says nothing.

    Raises:
        SegRefineryError: names both.
    """
    for override in overrides:
        if value is not None and override.partition("=")[0] == key:
            raise SegRefineryError(f"--set {override}: {option} says {value}; leave one of the two away")


def also_set(overrides: Sequence[str], key: str, value: str | None, option: str) -> list[str]:
    """Overrides, and what an option sets of a recipe; None sets nothing.

    Raises:
        SegRefineryError: an override sets the same.
    """
    refuse_said_twice(overrides, key, value, option)
    return [*overrides, *([] if value is None else [f"{key}={json.dumps(value)}"])]


def refuse_another_method(name: str | Path | Recipe, scale: str | None) -> None:
    """A scale is a budget: what it changes besides makes it another method.

    Raises:
        SegRefineryError: names the file, the scale and the keys.
    """
    if not scale or scale == "paper":
        return
    *_, (_, paper) = layers(name, None, (), {})
    *_, (place, _), (_, scaled) = layers(name, scale, (), {})
    small = recipe_or_mistakes(scaled)
    if not isinstance(small, Recipe):
        return
    whole = recipe_or_mistakes(on_the_networks_of(scaled, paper))
    if not isinstance(whole, Recipe):
        mistakes = "; ".join(str(mistake).rstrip(".") for mistake in whole)
        raise SegRefineryError(f"{place}a scale is a budget of the recipe, which is wrong without it: {mistakes}")
    if keys := beyond_budget(whole, small):
        raise SegRefineryError(
            f"{place}{', '.join('.'.join(key) for key in keys)}: a scale changes budgets (steps, sizes, batches, "
            "rates, widths, momenta, the network) and nothing else; write a recipe of its own that extends this one"
        )


def on_the_networks_of(scaled: Mapping[str, Any], paper: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without its scale, but with the networks of the scale: they are budget, and so is what a recipe takes
    over from them. The model to start from is no budget."""
    model, before, stages = scaled["model"], paper.get("model"), paper.get("stages")
    given = ("start", "from", "classes")  # of RunModelSettings, what is of no network
    model = {key: value for key, value in model.items() if key not in given}
    if isinstance(before, Mapping):
        model |= {key: before[key] for key in given if key in before}
    if isinstance(stages, Mapping):
        stages = {
            name: {**stage, "model": (scaled["stages"].get(name) or {}).get("model")}
            if isinstance(stage, Mapping)
            else stage
            for name, stage in stages.items()
        }
    return {**paper, "model": model, "stages": stages}


def layers(
    name: str | Path | Recipe, scale: str | None, overrides: Sequence[str], fields: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a recipe is made of, from the file that extends no other to the last assignment: what to call each in front
    of an error, and the mapping with it laid over all before."""
    raw: dict[str, Any] = {}
    place, scales = "", {}
    for place, change in read_files(name):
        try:
            raw = extend(raw, change)
        except SegRefineryError as error:
            raise SegRefineryError(f"{place}: {error}") from error
        scales = raw.get("scales") or {}
        yield f"{place}: ", {key: value for key, value in raw.items() if key != "scales"}
    raw.pop("scales", None)
    if scale and scale != "paper":
        change = choose({"paper": {}, **scales}, scale, f"scale of {place}") or {}
        raw = merge(raw, for_every_stage(change, raw))
        raw["scale"] = scale
        yield f"{place}, scale {scale}: ", raw
    for override in overrides:
        assign(raw, override)
        yield f"--set {override}: ", raw
    yield "", raw | {key: value for key, value in fields.items() if value is not None}


def read_recipe(name: str | Path | Recipe) -> tuple[dict[str, Any], str]:
    """The YAML of a recipe with what it ``extends`` filled in, and where it was read."""
    files_read = read_files(name)
    raw: dict[str, Any] = {}
    for _, change in files_read:
        raw = extend(raw, change)
    return raw, files_read[-1][0]


def read_files(name: str | Path | Recipe) -> list[tuple[str, dict[str, Any]]]:
    """The recipe's file and those it extends, the base first, each with its place."""
    if isinstance(name, Recipe):
        return [(f"recipe {name.name}", name.model_dump(mode="json"))]
    files_read: list[tuple[str, dict[str, Any]]] = []
    identities: set[str | Path] = set()
    asked: Any = name
    while asked is not None:
        try:
            place, identity, raw = _read(asked)
        except SegRefineryError as error:
            raise SegRefineryError(f"{files_read[-1][0]}: extends: {error}" if files_read else str(error)) from error
        if identity in identities:
            way = " -> ".join([*(before for before, _ in files_read), place])
            raise SegRefineryError(f"{files_read[-1][0]}: extends: the recipe extends itself: {way}")
        identities.add(identity)
        asked = raw.pop("extends", None)
        files_read.append((place, raw))
    return files_read[::-1]


def _read(name: str | Path) -> tuple[str, str | Path, dict[str, Any]]:
    """One file: its place, what tells it from other files, and its mapping."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        place, identity = str(path), path.resolve()
        try:
            text = readable(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise SegRefineryError(f"{path}: the recipe cannot be read ({reason})") from error
    else:
        choose(dict.fromkeys(recipe_names()), str(name), "recipe")
        place, identity = f"{name}.yaml", str(name)
        text = (_shipped() / place).read_text(encoding="utf-8")
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise SegRefineryError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SegRefineryError(f"{place}: a recipe is a mapping with name, model, data and stages")
    if not isinstance(raw.get("extends"), str | None):
        raise SegRefineryError(f"{place}: extends: write the name of a recipe, or the path of one YAML file")
    scales = raw.get("scales") or {}
    if not isinstance(scales, dict) or not all(isinstance(changes, dict | None) for changes in scales.values()):
        raise SegRefineryError(f"{place}: scales: write a mapping of names to what each changes")
    if "paper" in scales:
        raise SegRefineryError(f"{place}: scales.paper: that is the recipe without a scale; write it outside of scales")
    if raw.get("scale") is not None and {"extends", "scales"} & raw.keys():
        raise SegRefineryError(f"{place}: scale: a file chooses none; leave it away, and say --scale {raw['scale']}")
    return place, identity, raw


def recipe_or_mistakes(raw: dict[str, Any]) -> Recipe | list[Mistake]:
    """A recipe from its mapping, or all that is wrong with it."""
    version = raw.get("format", FORMAT)
    if version != FORMAT:
        return [Mistake((), f"recipe format {version}; this version reads format {FORMAT}")]
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        mistakes = mistakes_of(error, Recipe)
    except SegRefineryError as error:
        return [Mistake((), str(error))]
    return [mistake for mistake in mistakes if not _is_copied(mistake, mistakes, raw)]


def _is_copied(mistake: Mistake, mistakes: list[Mistake], raw: Mapping[str, Any]) -> bool:
    """Whether ``target_data`` has a mistake from ``data`` only, of which it is told already."""
    (first, *rest), data, target_data = mistake.location or ("",), raw.get("data"), raw.get("target_data")
    if first != "target_data" or not isinstance(data, Mapping):
        return first == "target_data"
    own_value = target_data.get(rest[0]) if isinstance(target_data, Mapping) and rest else None
    return own_value is None and Mistake(("data", *rest), mistake.text) in mistakes


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that ``load_recipe`` reads back to the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _shipped() -> Any:
    return files("segrefinery") / "recipes"
