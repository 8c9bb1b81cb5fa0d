"""Recipes: typed, validated before anything starts, one YAML file a method."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator

from segrefinery.data.transforms import DataSettings
from segrefinery.engine.run import TrainingSettings
from segrefinery.errors import SegRefineryError
from segrefinery.models import ModelSettings
from segrefinery.settings import Settings, choose
from segrefinery.stages import STAGES
from segrefinery.stages.base import StageSettings
from segrefinery.stages.common import LossWeights
from segrefinery.stages.supervised import SupervisedSettings

FORMAT = 1


def parse_stages(value: Any) -> dict[str, StageSettings]:
    """Stages by name, in order; ``kind`` picks the settings each is read with."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("stages is a mapping of stage names to settings")
    stages = {}
    for name, settings in value.items():
        if isinstance(settings, StageSettings):
            stages[name] = settings
            continue
        if not isinstance(settings, Mapping) or "kind" not in settings:
            raise ValueError(f"stage {name!r} needs a kind: {', '.join(STAGES)}")
        kind = choose(STAGES, settings["kind"], "kind of stage")
        try:
            stages[name] = kind.model_validate(settings)
        except ValidationError as error:
            raise SegRefineryError(explain(error, f"stages.{name}", kind)) from error
    return with_attention(stages)


def with_attention(stages: dict[str, StageSettings]) -> dict[str, StageSettings]:
    """Let SAM be added to any recipe by naming ``pixel_attention`` in a chain. Where no stage before has trained the
    module, one is put there: the first supervised stage again, on a copy of the network that is then thrown away."""
    found: dict[str, StageSettings] = {}
    pattern: SupervisedSettings | None = None
    trained = False
    for name, stage in stages.items():
        asked = getattr(stage, "refine", {}).get("pixel_attention")
        if asked is not None and not trained and pattern is not None and (lesson := asked.to_train_first()) is not None:
            changes = {
                "start": "previous", "model": None, "hands_on": "refiners", "weights": LossWeights(main=0, aux=0),
                "refine": {"pixel_attention": lesson},
            }  # fmt: skip
            found["attention"] = pattern.model_copy(update=changes)
            trained = True
        trained = trained or (asked is not None and asked.train)
        if pattern is None and isinstance(stage, SupervisedSettings):
            pattern = stage
        found[name] = stage
    return found


class Recipe(Settings):
    """Stages, data, model and budget, and the data sets and seed it was given: all that determines a run."""

    format: int = FORMAT
    """Version of the recipe's format."""
    name: str
    about: str = ""
    """What the recipe does and where it comes from."""
    model: ModelSettings
    data: DataSettings
    target_data: DataSettings
    """How target images are read: ``data`` with what is given here laid over it (another ``short_side``, say)."""
    training: TrainingSettings = TrainingSettings()
    window: tuple[int, int] | None = None
    """Height and width of overlapping windows at prediction, on the resized image; by default the whole image."""
    stages: Annotated[dict[str, SerializeAsAny[StageSettings]], BeforeValidator(parse_stages)]
    scale: str = "paper"
    """``paper``: the settings of the publication; ``small``: two processor cores."""
    seed: int = Field(default=0, ge=0)
    source: str | None = None
    """Labelled images, as NAME:PATH[@SPLIT]."""
    target: str | None = None
    """Images to adapt to; their labels, where they have any, are not read."""
    evaluation: str | None = None
    """Labelled images of the target domain, for evaluation only."""
    oracle: str | None = None
    """Labelled images of the target domain, for the recipe ``oracle`` only."""
    classes: tuple[str, ...] | None = None
    """Train these classes only, by name; by default all that source and target have in common."""
    merge: dict[str, str | None] | None = None
    """Renames classes on both sides before they are compared: name -> name, or null to ignore the class."""
    translated: str | None = None
    """A folder of the source images in the target's style, made by any other tool and matched by file name; they take
    the place of the source images and keep their labels (BDL, SAM)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_target_data(cls, given: Any) -> Any:
        """``target_data`` says only what differs from ``data``; a null crop is that of ``data``."""
        if not isinstance(given, Mapping) or not isinstance(given.get("data"), Mapping):
            return given
        own = given.get("target_data") or {}
        if not isinstance(own, Mapping):
            return given
        own = {key: value for key, value in own.items() if key != "crop" or value is not None}
        return {**given, "target_data": {**given["data"], **own}}

    @model_validator(mode="after")
    def _mixed_images_have_one_size(self) -> Self:
        for name, stage in self.stages.items():
            for field in ("crop", "batch"):
                source, target = getattr(self.data, field), getattr(self.target_data, field)
                if getattr(stage, "mixing", "none") != "none" and getattr(stage, field) is None and source != target:
                    raise ValueError(
                        f"stages.{name} mixes source and target images, but data.{field} is {source} and "
                        f"target_data.{field} is {target}; make them equal, or set stages.{name}.{field}"
                    )
        return self


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _shipped().iterdir() if path.name.endswith(".yaml"))


def load_recipe(name: str | Path, scale: str | None = None, overrides: Sequence[str] = (), **fields: Any) -> Recipe:
    """A recipe by name, or from a YAML file.

    Args:
        scale: name of one of the recipe's ``scales``; None or ``paper`` leaves the settings of the paper.
        overrides: ``a.b.c=value`` assignments, the value read as YAML.
        fields: of ``Recipe`` to set, for instance ``source`` and ``seed``.

    Raises:
        SegRefineryError: names the file, the place in it and the valid choices.
    """
    raw, place = read_recipe(name)
    scales = raw.pop("scales", {})
    if scale and scale != "paper":
        raw = merge(raw, choose(scales, scale, f"scale of {place}"))
        raw["scale"] = scale
    for override in overrides:
        assign(raw, override)
    raw |= {key: value for key, value in fields.items() if value is not None}
    return validate_recipe(raw, place)


def read_recipe(name: str | Path) -> tuple[dict[str, Any], str]:
    """The YAML of a recipe with what it ``extends`` filled in, and where it was read."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        place, text = str(path), _read(path)
    else:
        choose(dict.fromkeys(recipe_names()), str(name), "recipe")
        place, text = f"{name}.yaml", (_shipped() / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SegRefineryError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SegRefineryError(f"{place}: a recipe is a mapping with name, model, data and stages")
    if (base := raw.pop("extends", None)) is not None:
        raw = merge(read_recipe(base)[0], raw)
    return raw, place


def validate_recipe(raw: dict[str, Any], place: str) -> Recipe:
    """A recipe from its mapping; errors name the place and the valid choices."""
    found = raw.get("format", FORMAT)
    if found != FORMAT:
        raise SegRefineryError(f"{place}: recipe format {found}; this version reads format {FORMAT}")
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise SegRefineryError(explain(error, place, Recipe)) from error


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, mappings merged key by key; a null removes a stage or a key."""
    result = copy.deepcopy(dict(base))
    for key, value in change.items():
        old = result.get(key)
        if value is None and (isinstance(old, Mapping) or old is None):
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(old, list):
            result[key] = merge(_as_mapping(old), value)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = merge(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def assign(raw: dict[str, Any], override: str) -> None:
    """Carry out ``a.b.c=value`` on a mapping; a list of refiners is addressed by their names.

    Raises:
        SegRefineryError: the override is not of that form, or leads through something that has no parts.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise SegRefineryError(f"--set {override}: write it as a.b.c=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SegRefineryError(f"--set {override}: the value is not valid YAML ({error})") from error
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
    here[last] = value


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that ``load_recipe`` reads back to the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def explain(error: ValidationError, place: str, model: type[Settings]) -> str:
    """One line a problem: where in the file, what is wrong, and the valid keys where a key is unknown."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "the recipe"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            owner = _model_at(model, item["loc"][:-1])
            message = f"unknown key; valid keys: {', '.join(owner.model_fields)}" if owner else "unknown key"
        elif item["type"] != "missing":
            message += f" (got {item['input']!r})" if not isinstance(item["input"], dict) else ""
        lines.append(f"{place}: {where}: {message}")
    return "; ".join(lines)


def _model_at(model: type[Settings], location: Sequence[Any]) -> type[Settings] | None:
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return None
        model = annotation
    return model


def _as_mapping(items: list[Any]) -> dict[str, Any]:
    """A list of names and single-key mappings as one mapping, in order."""
    mapping: dict[str, Any] = {}
    for item in items:
        mapping |= item if isinstance(item, dict) else {item: {}}
    return mapping


def _shipped() -> Any:
    return files("segrefinery") / "recipes"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SegRefineryError(f"{path}: the recipe cannot be read ({error.strerror})") from error
