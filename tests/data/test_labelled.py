"""Labels that teach: what is held out of them, and what is on two sides by its pixels."""

from __future__ import annotations

import numpy as np
import pytest

from data.pictures import index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.labelled import hold_out, shared_images
from segrefinery.data.scan import pixel_digests


def labelled(root, values):
    """A folder data set with an image of each brightness."""
    for place, value in enumerate(values):
        picture(root / "images" / f"{place}.png", (8, 12), value)
        index_png(root / "masks" / f"{place}.png", np.zeros((8, 12), np.uint8))
    text = "images: images/{name}.png\nmasks: masks/{name}.png\nclasses: [road, car]\n"
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return open_dataset(f"folder:{root}")


def test_images_are_told_apart_by_their_pixels(tmp_path):
    one, other = labelled(tmp_path / "one", (10, 60, 110)), labelled(tmp_path / "other", (160, 60))
    assert shared_images(one, other) == [(1, 1)]
    assert len(set(pixel_digests(one))) == 3
    assert pixel_digests(one) == pixel_digests(one)


def test_a_share_is_held_out_by_the_seed_and_copies_stay_together(tmp_path):
    labels = labelled(tmp_path / "labels", (10, 30, 50, 70, 90, 110, 130, 130))
    splits = set()
    for seed in range(8):
        taught, held_out = hold_out(labels, 0.3, seed)
        assert held_out is not None
        names = [[side.name(place) for place in range(len(side))] for side in (taught, held_out)]
        assert sorted(names[0] + names[1]) == [str(place) for place in range(8)]
        assert ("6" in names[0]) == ("7" in names[0])
        assert len(set(names[1]) - {"7"}) == 2
        assert names[1] == [hold_out(labels, 0.3, seed)[1].name(place) for place in range(len(held_out))]  # pyright: ignore
        splits.add(tuple(names[1]))
    assert len(splits) > 1


def test_without_a_share_all_teach_and_too_few_are_refused(tmp_path):
    labels = labelled(tmp_path / "labels", (10, 30, 50, 70))
    assert hold_out(labels, 0.0, 1) == (labels, None)
    for share in (0.25, 0.95):
        with pytest.raises(SegRefineryError, match=r"training\.holdout: .* hold out 2 or more"):
            hold_out(labels, share, 1)
