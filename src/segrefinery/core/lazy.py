"""Names of a package that are looked up when they are first asked for, so that who reads a text imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from segrefinery.core.errors import SegRefineryError


def looked_up(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that offers names of its modules.

    Args:
        package: its ``__name__``.
        places: of each name, the module inside the package that has it.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find


def by_module(**names: str) -> dict[str, str]:
    """Places for ``looked_up``: of each module, its names with spaces between."""
    return {name: module for module, several in names.items() for name in several.split()}


class OnUse:
    """A module that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def optional(module: str, need: str, extra: str) -> Any:
    """A module of a library that not everyone has installed.

    Args:
        need: who needs what, for the error: ``films need PyAV``. extra: of this package, which brings it.

    Raises:
        SegRefineryError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SegRefineryError(f"{need}: pip install 'segrefinery[{extra}]'.") from error


def later(place: str, **settled: Any) -> Callable[..., Any]:
    """A function that is imported when it is first called.

    Args:
        place: ``module:name``.
        settled: keyword arguments that every call passes on.
    """
    module, _, name = place.partition(":")

    def call(*arguments: Any, **others: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **settled, **others)

    return call
