"""What Label Studio exports: JSON and JSON-MIN, brush, polygon and rectangle regions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.interchange.brush import decode_brush
from segrefinery.labels import IGNORE, LabelSpace, key

LABELS = ("brushlabels", "polygonlabels", "rectanglelabels")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?P<stem>.+)")
"""Label Studio puts eight digits before the name of an uploaded file."""


def read_label_studio(path: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    """The masks of an export: file stem -> H x W int64, 255 where nothing was painted.

    Of several annotations of a task the last that was not cancelled counts. What nobody painted is the class
    ``background``, if there is one and no region of the export has it.

    Raises:
        SegRefineryError: no such export, or a region, label or size in it that cannot be used.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SegRefineryError(f"{path}: not a Label Studio JSON export ({error})") from error
    painted: dict[str, Sequence[Mapping[str, Any]]] = {}
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], 1):
        if not isinstance(task, dict):
            raise SegRefineryError(f"{path}: task {number} is no task; export as JSON or JSON-MIN")
        stem = _stem(task, sizes)
        if stem in sizes and (regions := _regions(path, stem, task)):
            if stem in painted:
                raise SegRefineryError(f"{path}: {stem} is in two tasks; leave one in the export")
            painted[stem] = regions
    ids = {key(name): index for index, name in enumerate(space.classes)}
    used = {key(_label(path, stem, each)) for stem, regions in painted.items() for each in regions}
    rest = IGNORE if "background" in used else ids.get("background", IGNORE)
    return {stem: _paint(path, stem, regions, sizes[stem], space, rest) for stem, regions in painted.items()}


def _stem(task: Mapping[str, Any], sizes: Mapping[str, Any]) -> str:
    """The stem of the task's image, of its tag or its address."""
    data = task.get("data", task)
    data = data if isinstance(data, dict) else {}
    stem = str(data.get("stem") or Path(unquote(str(data.get("image", "")))).stem)
    uploaded = _UPLOADED.fullmatch(stem)
    return uploaded["stem"] if uploaded and stem not in sizes else stem


def _regions(path: Path, stem: str, task: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The regions of the annotation that counts, each with its value's keys beside its own."""
    if "annotations" in task:
        valid = [each for each in task["annotations"] if not each.get("was_cancelled")]
        results = valid[-1].get("result", []) if valid else []
        found = [{**each, **(each.get("value") or {})} for each in results if each.get("type") != "relation"]
    elif "predictions" in task:
        found = []
    else:
        lists = [value for value in task.values() if isinstance(value, list)]
        found = [{**each} for value in lists for each in value if isinstance(each, dict)]
    for each in found:
        if not any(each.get(kind) for kind in LABELS):
            what = each.get("type") or ", ".join(map(str, each))
            raise SegRefineryError(f"{path}: {stem}: a region is {what}; only {', '.join(LABELS)} can be read")
    return found


def _label(path: Path, stem: str, region: Mapping[str, Any]) -> str:
    names = next(region[kind] for kind in LABELS if region.get(kind))
    if len(names) != 1:
        raise SegRefineryError(f"{path}: {stem}: a region has the labels {', '.join(map(str, names))}; give it one")
    return str(names[0])


def _paint(
    path: Path, stem: str, regions: Sequence[Mapping[str, Any]], size: tuple[int, int], space: LabelSpace, rest: int
) -> Tensor:
    mask = np.full(size, rest, dtype=np.int64)
    ids = {key(name): index for index, name in enumerate(space.classes)}
    for region in regions:
        own = (region.get("original_height"), region.get("original_width"))
        if own != tuple(size):
            raise SegRefineryError(f"{path}: {stem} was labelled at {own[0]} x {own[1]}, it is {size[0]} x {size[1]}")
        name = _label(path, stem, region)
        if key(name) not in ids:
            raise SegRefineryError(f"{path}: {stem}: unknown label {name!r}; classes: {', '.join(space.classes)}")
        if region.get("image_rotation") or region.get("rotation"):
            raise SegRefineryError(f"{path}: {stem}: a region is rotated; draw it as a polygon")
        try:
            mask[_covered(region, size)] = ids[key(name)]
        except (ValueError, TypeError, KeyError) as error:
            raise SegRefineryError(f"{path}: {stem}: a region of {name!r} cannot be read ({error})") from error
    return torch.from_numpy(mask)


def _covered(region: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """H x W bool: the pixels of a region, whose corners are in percent of the image."""
    if "rle" in region:
        return decode_brush(region["rle"], *size)
    if "points" in region:
        corners = [(float(x), float(y)) for x, y in region["points"]]
    else:
        left, top, width, height = (float(region[name]) for name in ("x", "y", "width", "height"))
        corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    if len(corners) < 3:
        raise ValueError("a polygon needs three corners")
    # A pixel belongs to a region that holds its centre; drawn on a raster four times as fine.
    fine = 4
    picture = Image.new("1", (size[1] * fine, size[0] * fine))
    pixels = [(x / 100 * size[1] * fine - 0.5, y / 100 * size[0] * fine - 0.5) for x, y in corners]
    ImageDraw.Draw(picture).polygon(pixels, fill=1)
    return np.array(picture)[fine // 2 :: fine, fine // 2 :: fine]
