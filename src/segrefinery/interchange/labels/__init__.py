"""Labels that a model writes, in the forms that other tools train on."""

from __future__ import annotations

from collections.abc import Mapping

from segrefinery.interchange.labels.base import Item, LabelWriter
from segrefinery.interchange.labels.coco import CocoLabels
from segrefinery.interchange.labels.parquet import ParquetLabels
from segrefinery.interchange.labels.png import PngLabels
from segrefinery.interchange.labels.yolo import YoloLabels

LABEL_FORMATS: Mapping[str, type[LabelWriter]] = {
    "png": PngLabels,
    "coco": CocoLabels,
    "yolo": YoloLabels,
    "parquet": ParquetLabels,
}

__all__ = ["LABEL_FORMATS", "Item", "LabelWriter", "PngLabels"]
