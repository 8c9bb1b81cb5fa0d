"""Lists in text files that a ``dataset.yaml`` names: the images of a split, the classes, their colours."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from segrefinery.core.files import readable
from segrefinery.core.settings import Settings
from segrefinery.data.decoding import DataError
from segrefinery.labels import Color


class SplitSettings(Settings):
    """Which images belong to a split."""

    file: str
    """Names a CSV file with a header, or without ``column`` a plain list of names, one a line; relative to the root."""
    column: str | None = None
    """Names the column that says where an image belongs."""
    value: str | int | list[str | int] | None = None
    """Gives the value, or values, of that column that make the split."""
    name: str | None = None
    """Names the column with the image's name; without it, the first."""


def names_of_split(file: Path, rule: SplitSettings, field: str) -> list[str]:
    """The names of a split's images.

    Raises:
        DataError: the list cannot be read, names no image, or has a line of more or fewer columns than its header.
    """
    text = _text(file, "splits.file")
    if not text.strip():
        raise DataError(file, field, "the file is empty: it names no image", "list the names of the split's images")
    if rule.column is None:
        return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    header, rows = _table(file, text)
    for column in (rule.column, rule.name):
        if column is not None and header.count(column) != 1:
            problem = f"there {'are several columns' if column in header else 'is no column'} {column!r}"
            raise DataError(file, "splits.column", problem, f"choose one of: {', '.join(header)}")
    if rule.value is None:
        raise DataError(file, field, f"names no image: no value of {rule.column!r} is given", "say which with 'value'")
    values = {str(value) for value in (rule.value if isinstance(rule.value, list) else [rule.value])}
    named, of = header.index(rule.name or header[0]), header.index(rule.column)
    names = list(dict.fromkeys(row[named] for row in rows if row[of] in values))
    if not names:
        raise DataError(
            file,
            field,
            f"names no image: no line has {rule.column} = {' or '.join(sorted(values))}",
            "correct the value",
        )
    return names


def _table(file: Path, text: str) -> tuple[list[str], list[list[str]]]:
    """The header of a CSV file, and its rows, each of as many columns."""
    lines = csv.reader(io.StringIO(text))
    rows = []
    try:
        for row in lines:
            if rows and row and len(row) != len(rows[0]):
                problem = f"has {len(row)} columns, the header {len(rows[0])}"
                raise DataError(file, f"line {lines.line_num}", problem, "complete it, and quote what holds a comma")
            rows += [row] if row else []
    except csv.Error as error:
        raise DataError(file, f"line {lines.line_num}", f"is no CSV ({error})", "correct it") from error
    return rows[0], rows[1:]


def class_names(file: Path) -> list[str]:
    """Class names from a text file, one a line, in the order of their ids; empty lines do not count.

    Raises:
        DataError: the file cannot be read, or has lines that are no names, by which the ids would be others.
    """
    lines = [line.strip() for line in _text(file, "classes").splitlines() if line.strip()]
    remedy = "write one name a line, of id 0 first, or the classes in dataset.yaml as id: name"
    if comment := next((line for line in lines if line.startswith("#")), ""):
        raise DataError(file, "classes", f"{comment!r} is no name, and each line counts as an id", remedy)
    if lines and all(re.match(r"\d+\s*[\s,:;=]|- ", line) for line in lines):
        raise DataError(file, "classes", f"its lines, first {lines[0]!r}, hold more than names", remedy)
    return lines


def _text(file: Path, field: str) -> str:
    try:
        return readable(file).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(file, field, "is no UTF-8 text", "save it as UTF-8") from error
    except OSError as error:
        raise DataError(file, field, f"cannot be read ({error.strerror})", "check the path") from error


def read_labelmap(path: Path) -> dict[str, Color]:
    """Class name -> colour from lines ``name:r,g,b:parts:actions``; lines that start with ``#`` are comments.

    Raises:
        DataError: the file cannot be read, or a line is not of that form.
    """
    colors: dict[str, Color] = {}
    for number, line in enumerate(_text(path, "labelmap").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        hit = re.fullmatch(r"(?P<name>.+?):(\d+),\s*(\d+),\s*(\d+)(:.*)?", line.strip())
        if hit is None or any(int(part) > 255 for part in hit.groups()[1:4]) or hit["name"] in colors:
            raise DataError(path, f"line {number}", f"{line!r} is no new class", "write NAME:R,G,B:: with a name once")
        colors[hit["name"]] = (int(hit[2]), int(hit[3]), int(hit[4]))
    return colors
