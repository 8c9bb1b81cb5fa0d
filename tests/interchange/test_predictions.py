"""Predictions as files, and the list of which file is whose."""

from __future__ import annotations

import csv

import torch

from segrefinery.data.label_files import write_manifest
from segrefinery.interchange.predictions import write_prediction
from segrefinery.labels import LabelSpace

SPACE = LabelSpace.of("two", ("road", "car"))


def test_predictions_are_mapped_back_to_their_images(tmp_path):
    names, image, probs = ["ride 1/frame.0001", "ride 1/frame.0002"], torch.zeros(3, 4, 6), torch.rand(2, 4, 6)
    confidence, label = probs.max(dim=0)
    rows = []
    for index, name in enumerate(names):
        paths = write_prediction(tmp_path, index, name, image.byte(), label, confidence, SPACE)
        rows.append((index, name, paths["label"]))
    listed = write_manifest(tmp_path, reversed(rows))
    assert listed == tmp_path / "files.csv"
    with listed.open(encoding="utf-8", newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [
            ("0", names[0], "000000_ride_1_frame.0001.png"),
            ("1", names[1], "000001_ride_1_frame.0002.png"),
        ]
    assert {path.name for path in paths.values()} == {
        f"000001_ride_1_frame.0002{ending}" for ending in (".png", ".overlay.png", ".confidence.png")
    }
