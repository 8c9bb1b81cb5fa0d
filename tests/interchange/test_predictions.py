"""Predictions as files, and the list of which file is whose."""

from __future__ import annotations

import csv

import numpy as np
import torch
from PIL import Image

from segrefinery.data.label_files import save_png, write_manifest
from segrefinery.interchange.predictions import overlay, write_prediction
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


def test_an_overlay_is_the_mean_of_image_and_colours():
    space = LabelSpace.of("two", ("road", "car"), {"road": (1, 2, 255), "car": (0, 128, 254)})
    values = torch.arange(256, dtype=torch.uint8).expand(3, 3, 256)
    label = torch.tensor([[0], [1], [255]]).expand(3, 256)
    colors = torch.tensor(space.colors, dtype=torch.double)[:, None]
    mean = (values.permute(1, 2, 0)[:2] + colors) / 2
    painted = overlay(values, label, space)
    assert np.array_equal(painted[:2], mean.round().numpy().astype(np.uint8))
    assert np.array_equal(painted[2], values[:, 2].T.numpy())


def test_pictures_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    for shape, mode in (((9, 14), "L"), ((9, 14), "P"), ((9, 14, 3), "RGB"), ((300, 1), "L")):
        for values in (rng.integers(0, 256, shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)):
            picture = Image.fromarray(values)
            if mode == "P":
                picture.putpalette([7] * 768)
            save_png(tmp_path / "a.png", picture)
            with Image.open(tmp_path / "a.png") as opened:
                assert opened.mode == mode
                assert np.array_equal(np.asarray(opened), values)
                assert opened.getpalette() == (picture.getpalette() if mode == "P" else None)
