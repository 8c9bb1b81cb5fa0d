"""The base of every typed setting, and the one way in which a name is looked up in a table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from segrefinery.errors import SegRefineryError

T = TypeVar("T")


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys; a field's description is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


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
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SegRefineryError(f"unknown {what} {name!r}.{hint} Choose one of: {', '.join(sorted(table))}.")
