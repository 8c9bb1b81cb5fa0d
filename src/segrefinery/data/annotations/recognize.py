"""What a path holds that was named as something else: the line that names it right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from segrefinery.core.files import readable

_MOST = 200
"""Files that are looked at."""
_ENDS = 1 << 16
"""Bytes at the begin and the end of a file that are looked at."""


def right_name(path: Path) -> tuple[str, str] | None:
    """The format of what lies in a folder or file, and the data set's right name; None where none is known.

    Only the begin and the end of files are read, of the first few.
    """
    for file in _candidates(path):
        if hit := _of_file(file):
            return _with_neighbours(path) if hit[0] == "labelme" and path.is_dir() else hit
    return None


def _with_neighbours(path: Path) -> tuple[str, str]:
    """The folder that holds all of labelme's files below ``path``."""
    hits = ((file, _of_file(file)) for file in _candidates(path))
    folders = [str(file.parent) for file, hit in hits if hit and hit[0] == "labelme"]
    return "labelme", f"labelme:{Path(os.path.commonpath(folders))}"


def hint(path: Path, wrong: str | None = None) -> str:
    """``write NAME, ...`` to end a remedy with; empty where nothing is known or it was ``wrong``."""
    right = right_name(path)
    if right is None or right[0] == wrong:
        return ""
    return f"write {right[1]}, for it holds data of this kind"


def _candidates(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    looked = 0
    for folder, subfolders, names in os.walk(path):
        if len(Path(folder).relative_to(path).parts) >= 2:
            subfolders.clear()
        subfolders.sort()
        # data.yaml first: beside it may lie what else a tool has exported.
        for name in sorted(names, key=lambda name: (not name.endswith((".yaml", ".yml")), name)):
            if name.endswith((".yaml", ".yml", ".json", ".xml", ".tar", ".parquet")):
                yield Path(folder, name)
                looked += 1
                if looked == _MOST:
                    return


def _of_file(file: Path) -> tuple[str, str] | None:
    if file.suffix == ".tar":
        return "shards", f"shards:{file.parent / '*.tar'}"
    if file.suffix == ".parquet":
        return "hfds", f"hfds:{file.parent.parent if file.parent.name == 'data' else file.parent}"
    if file.name == "dataset_dict.json" or (file.name == "state.json" and (file.parent / "dataset_info.json").exists()):
        return "hfds", f"hfds:{file.parent}"
    try:
        with readable(file).open("rb") as stream:
            text = stream.read(_ENDS)
            stream.seek(max(os.fstat(stream.fileno()).st_size - _ENDS, 0))
            text = (text + stream.read()).decode("utf-8", "replace")
    except OSError:
        return None
    keys = set(re.findall(r'"(\w+)"\s*:', text))
    if file.name == "dataset.yaml" and re.search(r"^images:", text, re.M):
        return "folder", f"folder:{file.parent}"
    if file.suffix in (".yaml", ".yml"):
        split = re.search(r"^(train|val|test):", text, re.M)
        named = file.parent if file.name == "data.yaml" else file
        return ("yolo", f"yolo:{named}@{split[1]}") if split and re.search(r"^names:", text, re.M) else None
    if file.suffix == ".xml":
        return ("cvat", f"cvat:{file}") if re.search(r"<annotations>.*<image ", text, re.S) else None
    if {"shapes", "imagePath"} <= keys:
        return "labelme", f"labelme:{file.parent}"
    if {"images", "categories"} <= keys or {"image_id", "category_id"} <= keys:
        return "coco", f"coco:{file}"
    minimal = "original_width" in keys and keys & {"brushlabels", "polygonlabels", "rectanglelabels"}
    if text.lstrip().startswith("[") and ({"annotations", "data", "result"} <= keys or minimal):
        return "labelstudio", f"labelstudio:{file}"
    return None
