"""The base of every typed setting, and the one way in which a name is looked up in a table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from segrefinery.errors import SegRefineryError

T = TypeVar("T")


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys; a field's description is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


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
