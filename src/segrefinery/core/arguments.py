"""What a function of the Python API is called with is of the kind that it declares, or one line names the argument.

Neither way of pydantic's ``validate_call`` does: the lax one takes ``"2"`` and ``True`` for numbers, the strict one
refuses numpy's numbers and a list of two for a pair, and both need torch imported to read ``nn.Module``.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from segrefinery.core.errors import SegRefineryError, as_given

P = ParamSpec("P")
R = TypeVar("R")

WORDS = {str: "a text", Path: "a path", int: "a whole number", float: "a number", bool: "True or False"}
"""Of the kinds that have a name of their own in a sentence."""
NUMBERS = {int: numbers.Integral, float: numbers.Real}
"""The numbers of other libraries that do as well."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses arguments of another kind than its annotations say before it does anything.

    Values that are named in a table (``Literal``) are told apart where the table is, and what the function's module
    imports for type checkers alone (``torch``, which takes seconds) is looked at where it is used. A text in
    ``Annotated`` says in words what is expected, a second one what to do with something else, and pydantic's
    ``Field(ge=1)`` how much it is at least.

    Raises:
        SegRefineryError: at the call; names the argument, what is expected, and what came.
    """
    signature = inspect.signature(function)

    @functools.lru_cache(1)
    def kinds() -> Mapping[str, Any]:
        return annotations_of(function)

    @functools.wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R:
        for name, value in signature.bind(*args, **named).arguments.items():
            if name in kinds() and not fits(value, kind := kinds()[name]):
                given = as_given(value)
                otherwise = [f"write [{given}]"] if _is_one_of_a_list(value, kind) else _texts(kind)[1:]
                remedy = "".join(f"; {each}" for each in otherwise)
                raise SegRefineryError(f"{name}: {in_words(kind)} expected, got {given}{remedy}")
        return function(*args, **named)

    return call


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's arguments, of those that its module knows when it runs."""
    module, known = vars(sys.modules[function.__module__]), {}
    for name, annotation in inspect.get_annotations(function).items():
        try:
            known[name] = eval(annotation, module) if isinstance(annotation, str) else annotation
        except NameError:
            continue
    return known


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: a class, or what ``typing`` makes of classes."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        return fits(value, parts[0]) and all(
            value >= least if word == "of at least" else value > least for word, least in _limits(kind)
        )
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return type(value) in map(type, parts)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is tuple:
        return isinstance(value, tuple | list) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is collections.abc.Sequence:
        listed = isinstance(value, collections.abc.Sequence) and not isinstance(value, str | bytes)
        return listed and all(fits(each, parts[0]) for each in value)
    if kind in NUMBERS:
        return isinstance(value, NUMBERS[kind]) and not isinstance(value, bool)
    return isinstance(value, os.PathLike if kind is Path else NoneType if kind is None else origin or kind)


def in_words(kind: Any) -> str:
    """A kind as it is called in a sentence; that None does too goes without saying."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if texts := _texts(kind):
            return texts[0]
        return " ".join([in_words(parts[0]), *(f"{word} {least}" for word, least in _limits(kind))])
    if origin in (Union, UnionType):
        shown = [part for part in parts if part is not NoneType]
        return " or ".join(in_words(part) for part in shown if part is not str or Path not in shown)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is collections.abc.Callable:
        return "a function"
    if origin in (tuple, collections.abc.Sequence):
        count = f"{len(parts)} " if origin is tuple else ""
        return f"a list of {count}{in_words(parts[0]).removeprefix('a ')}s"
    return WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _texts(kind: Any) -> list[str]:
    """What an annotation says in words, of one of several kinds too."""
    if get_origin(kind) is Annotated:
        return [mark for mark in get_args(kind)[1:] if isinstance(mark, str)]
    united = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return next((texts for part in united if (texts := _texts(part))), [])


def _limits(kind: Any) -> list[tuple[str, float]]:
    """What an annotated number may not be below, or must be above, with the words for it."""
    marks = [limit for mark in get_args(kind)[1:] if isinstance(mark, FieldInfo) for limit in mark.metadata]
    named = {"ge": "of at least", "gt": "above"}
    return [(word, getattr(mark, key)) for mark in marks for key, word in named.items() if hasattr(mark, key)]


def _is_one_of_a_list(value: Any, kind: Any) -> bool:
    """Whether a list of such values is expected."""
    if get_origin(kind) in (Union, UnionType, Annotated):
        return any(_is_one_of_a_list(value, part) for part in get_args(kind))
    return get_origin(kind) is collections.abc.Sequence and fits(value, get_args(kind)[0])
