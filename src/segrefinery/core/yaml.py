"""YAML of users and of runs, read within bounds: no aliases that blow up, and no key that hides another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segrefinery.core.files import readable, unreadable

MOST_VALUES = 100_000
"""A document of more values, each alias counted as what it stands for, is refused."""


def parse_yaml(text: str, booleans: bool = True) -> Any:
    """What a YAML text holds.

    Args:
        booleans: False leaves ``no``, ``on``, ``true`` and their kind as the words that stand there.

    Raises:
        yaml.YAMLError: it is no YAML, a key is given twice, its aliases stand for too much, or it is nested too deeply.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(loader, node, {}, booleans)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # a number or a date that is none
        raise error if isinstance(error, yaml.YAMLError) else yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def read_yaml(path: Path) -> Any:
    """What a YAML file of a run holds.

    Raises:
        SegRefineryError: it cannot be read, is not UTF-8 or no YAML.
    """
    try:
        return parse_yaml(readable(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error


def _check(loader: yaml.SafeLoader, node: yaml.Node, sizes: dict[int, int], booleans: bool) -> int:
    """How many values a node stands for."""
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = MOST_VALUES + 1  # should it hold itself
    size = 1
    if isinstance(node, yaml.ScalarNode):
        if not booleans and node.tag.endswith(":bool"):
            node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            size += _check(loader, key, sizes, booleans) + _check(loader, value, sizes, booleans)
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                name = loader.construct_object(key)
                if name in keys:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice")
                keys.add(name)
    else:
        size += sum(_check(loader, value, sizes, booleans) for value in node.value)
    if size > MOST_VALUES:
        raise yaml.YAMLError(f"it holds more than {MOST_VALUES:,} values, or aliases that stand for them")
    sizes[id(node)] = size
    return size
