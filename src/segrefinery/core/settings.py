"""The base of every typed setting, what is said of a wrong one, and the one way to look a name up in a table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from segrefinery.core.errors import SegRefineryError

T = TypeVar("T")


class Budget:
    """Marks a setting as budget: with another value the method is the same, only larger or smaller. The scales of a
    recipe may change such settings and no others."""


BUDGET = Budget()


class Provenance:
    """Marks whose choice a setting's default is; without a mark it is ours.

    ``paper``: stated in the paper. ``code``: read in the authors' public code. ``rebuilt``: reconstructed from a
    summary, an abstract or a text without formulas.
    """

    def __init__(self, name: str) -> None:
        self.name = name


PAPER, CODE, REBUILT = Provenance("paper"), Provenance("code"), Provenance("rebuilt")


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys; a field's description is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, given: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes``, ``no``, ``on`` and ``off`` as booleans, which would be taken for 1 and 0."""
        kinds = _kinds_in(cls.model_fields[str(info.field_name)].annotation)
        values = given if isinstance(given, list | tuple) else [given]
        if kinds & {int, float} and bool not in kinds and any(isinstance(value, bool) for value in values):
            raise ValueError("a number expected")
        return given

    @field_validator("*", mode="before")
    @classmethod
    def _over_the_default(cls, given: Any, info: ValidationInfo) -> Any:
        """A part of a field's settings changes that part of the field's default, which may say more than its class."""
        default = cls.model_fields[str(info.field_name)].default
        if not isinstance(default, Settings) or not isinstance(given, Mapping):
            return given
        return _laid_over(default.model_dump(include=default.model_fields_set), given)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _laid_over(below[key], value) for key, value in above.items() if _are_mappings(below.get(key), value)}
    return {**below, **above, **both}


def _are_mappings(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _kinds_in(annotation: Any) -> set[Any]:
    """All types that an annotation is made of."""
    parts = get_args(annotation)
    return {annotation}.union(*map(_kinds_in, parts)) if parts else {annotation}


def beyond_budget(paper: Settings, scaled: Settings) -> list[tuple[str, ...]]:
    """The keys in which two settings differ though none of them is marked as budget, each with the way to it."""
    if type(paper) is not type(scaled):
        return [()]
    keys: list[tuple[str, ...]] = []
    for key, field in type(paper).model_fields.items():
        if not any(isinstance(mark, Budget) for mark in field.metadata):
            keys += [(key, *rest) for rest in _differences(getattr(paper, key), getattr(scaled, key))]
    return keys


def _differences(old: Any, new: Any) -> list[tuple[str, ...]]:
    if isinstance(old, Settings) and isinstance(new, Settings):
        return beyond_budget(old, new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if list(old) != list(new):  # an order is a method too
            return [(str(key),) for key in [*old, *new] if (key in old) != (key in new)] or [()]
        return [(str(key), *rest) for key in old for rest in _differences(old[key], new[key])]
    return [] if old == new else [()]


class PresetSettings(Settings):
    """Settings with a field ``preset``: its value names a set of defaults, and a field that is given wins over it."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Preset -> the fields whose defaults it changes."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {**cls.presets.get(given.get("preset", cls.model_fields["preset"].default), {}), **given}


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """``table[name]``.

    Raises:
        SegRefineryError: the name is unknown; the message prints the nearest names and the whole table.
    """
    if name in table:
        return table[name]
    hint = did_you_mean(str(name), table)
    raise SegRefineryError(f"unknown {what} {name!r}.{hint} Choose one of: {', '.join(sorted(table))}.")


def two_sides(option: str, text: str) -> tuple[int, int]:
    """Height and width that a command's option names.

    Raises:
        SegRefineryError: it is written otherwise than HEIGHTxWIDTH.
    """
    if not (sides := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise SegRefineryError(f"{option} {text}: write it as HEIGHTxWIDTH, for instance 512x1024")
    return int(sides[1]), int(sides[2])


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, to put after a full stop; empty where no name is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class Mistake(NamedTuple):
    """What is wrong with settings: the keys that lead there, and the matter in words."""

    location: tuple[int | str, ...]
    text: str

    def __str__(self) -> str:
        where = ".".join(str(part) for part in self.location)
        return f"{where}: {self.text}" if where else self.text


def mistakes_of(error: ValidationError, model: type[Settings]) -> list[Mistake]:
    """The mistakes that ``model`` found, each once: what to write instead, and the valid keys where one is unknown."""
    mistakes = []
    # What is missing comes last, for it may be there under the name of an unknown key.
    for item in sorted(error.errors(), key=lambda item: item["type"] == "missing"):
        location, given, text = item["loc"], item["input"], item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] == "mistake" or isinstance(given, Mapping) else f" (got {given!r})"
        if item["type"] == "missing" and location and isinstance(location[-1], int):
            location = location[:-1]  # of a list that is too short, pydantic names the places that are not there
        elif item["type"] == "missing":
            got = ""
        field = _field_at(model, location)
        if item["type"] == "extra_forbidden":
            above = _field_at(model, location[:-1])
            owner = model if len(location) == 1 else above and _settings_in(above.annotation)
            text, got = "unknown key", ""
            if owner:
                hint = did_you_mean(str(location[-1]), owner.model_fields)
                text += f"; valid keys: {', '.join(owner.model_fields)}{hint and '.'}{hint}"
        elif item["type"] in ("tuple_type", "too_long", "missing") and field and _values_of(field.annotation):
            text = _how_to_write(field, given)
        mistakes.append((*_field_of_kind(model, location, text), got))
    return _each_once(mistakes)


def _field_of_kind(model: type[Settings], location: tuple[int | str, ...], text: str) -> tuple[Any, str, bool]:
    """Location and text of a mistake, and whether it is that of one kind alone of a field that takes one of several:
    pydantic names each as if it were a setting of its own."""
    field = _field_at(model, location[:-1])
    kinds = get_args(field.annotation) if field and get_origin(field.annotation) in (Union, UnionType) else ()
    if len(location) < 2 or len(set(kinds) - {NoneType}) < 2:
        return location, text, False
    return location[:-1], text.removesuffix(", unable to interpret input"), True


def _each_once(told: Iterable[tuple[tuple[int | str, ...], str, bool, str]]) -> list[Mistake]:
    """Mistakes without repetition, in one those of all kinds that a field may have: what they expect, and what came."""
    several: dict[tuple[int | str, ...], list[str]] = {}
    for location, text, of_a_kind, _ in told:
        if of_a_kind:
            several.setdefault(location, []).append(text)
    expected = {location: " or ".join(dict.fromkeys(texts)) for location, texts in several.items()}
    expected = {location: text.replace(" or Input should be ", " or ") for location, text in expected.items()}
    mistakes = [Mistake(place, (expected[place] if of_a_kind else text) + got) for place, text, of_a_kind, got in told]
    return list(dict.fromkeys(mistakes))


def as_validation_error(mistakes: Iterable[Mistake]) -> ValidationError:
    """Mistakes for a validator to raise: pydantic puts the way to the field it validates before their locations."""
    details: list[InitErrorDetails] = [
        {"type": PydanticCustomError("mistake", "{text}", {"text": text}), "loc": location, "input": None}
        for location, text in mistakes
    ]
    return ValidationError.from_exception_data("settings", details)


def _how_to_write(field: FieldInfo, given: Any) -> str:
    """What a field of several values takes, with an example from the one that was given if that is a number."""
    values = _values_of(field.annotation)
    count = None if Ellipsis in values else len(values)
    text = f"write a list of {count} values" if count else "write a list"
    if isinstance(given, int | float) and not isinstance(given, bool):
        text += f", for instance {[given] * (count or 1)}"
    meaning = re.split(r"[.;](?:\s|$)", field.description or "")[0]
    return f"{text}: {meaning[:1].lower()}{meaning[1:]}" if meaning else text


def _field_at(model: type[Settings], location: Sequence[int | str]) -> FieldInfo | None:
    """The field that a location leads to; None where it leads out of the settings' own fields."""
    owner: type[Settings] | None = model
    field, keyed = None, False
    for part in location:
        if keyed:  # a key of the user's own in a mapping, whose values have the field's kind
            keyed = False
            continue
        field = owner.model_fields.get(part) if owner and isinstance(part, str) else None
        owner = _settings_in(field.annotation) if field else None
        keyed = field is not None and get_origin(field.annotation) is dict
    return field


def _settings_in(annotation: Any) -> type[Settings] | None:
    """The settings class of a field that takes it, or it or null."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind
    return None


def _values_of(annotation: Any) -> tuple[Any, ...]:
    """The types of the values of a field that takes a tuple, or it or null; empty if it takes none."""
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is tuple:
            return get_args(kind)
    return ()
