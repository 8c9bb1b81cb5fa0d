"""Annotations as regions (polygons, run lengths, brushes), each format a data set whose masks are painted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from segrefinery.data.annotations.coco import open_coco
from segrefinery.data.annotations.cvat import open_cvat
from segrefinery.data.annotations.label_studio import open_label_studio
from segrefinery.data.annotations.labelme import open_labelme
from segrefinery.data.annotations.yolo import open_yolo
from segrefinery.data.files import FileDataset

ANNOTATIONS: Mapping[str, Callable[[Path, str | None, str], FileDataset]] = {
    "coco": open_coco,
    "labelme": open_labelme,
    "yolo": open_yolo,
    "labelstudio": open_label_studio,
    "cvat": open_cvat,
}
