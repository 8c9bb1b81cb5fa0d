"""What a model of transformers calls its classes: ``id2label`` of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segrefinery.core.errors import SegRefineryError


def refuse_no_names(config: Any, path: Path) -> None:
    """Raises:
    SegRefineryError: the file's content has an ``id2label`` that names no classes by number, of which the library says
        nothing that helps."""
    labels = config.get("id2label") if isinstance(config, dict) else None
    if labels is None or (
        isinstance(labels, dict)
        and all(number.isdecimal() and isinstance(name, str | int) for number, name in labels.items())
    ):
        return
    raise SegRefineryError(
        f'{path}: id2label: a mapping of numbers to names expected, such as {{"0": "road", "1": "car"}}, got '
        f"{str(labels)[:60]}; mend it, or remove it and name the classes with --set 'model.classes=[road, car, ...]'"
    )


def class_names(config: Any) -> tuple[str, ...] | None:
    """Of the classes; None where they are numbers, or LABEL_ and a number, or not one a row of the classifier."""
    if set(config.id2label) != set(range(config.num_labels)):  # counted from 1, say: nothing tells which row is meant
        return None
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    named = any(name not in (f"LABEL_{number}", str(number)) for number, name in enumerate(names))
    return tuple(names) if named else None
