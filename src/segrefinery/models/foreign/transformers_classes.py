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


def class_names(config: Any) -> tuple[tuple[str, ...] | None, str]:
    """Of the classes, or None where they are numbers, or LABEL_ and a number, or not one a row of the classifier; then
    in words why not, where there are names."""
    numbers, rows = sorted(config.id2label), config.num_labels
    if numbers != list(range(rows)):  # counted from 1, say: nothing tells which row is meant
        given = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        return None, f"id2label numbers them {given}, and the rows of its classifier are 0 to {rows - 1}"
    names = [str(config.id2label[number]) for number in numbers]
    named = any(name not in (f"LABEL_{number}", str(number)) for number, name in enumerate(names))
    return tuple(names) if named else None, ""
