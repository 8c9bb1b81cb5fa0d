"""What prediction says of images that a model reads otherwise than those of its training."""

from __future__ import annotations

import warnings

import pytest

import segrefinery as api
from data.pictures import picture
from runs import tiny_run
from segrefinery.core.errors import SegRefineryError


def said(run, folder, window=None):
    model = api.load(run, "cpu")
    model.window = window
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(api.predict(model, str(folder)))
    return [str(one.message) for one in caught]


def test_a_mosaic_and_an_inert_window_are_said(tmp_path):
    run = tiny_run(tmp_path / "run", "source_only")
    assert api.load(run, "cpu").image_size == (32, 64)
    picture(tmp_path / "tile/a.png", (32, 64))
    picture(tmp_path / "mosaic/a.png", (320, 640))
    assert said(run, tmp_path / "tile") == []
    (mosaic,) = said(run, tmp_path / "mosaic", (16, 16))
    assert "an image of 640 x 320, which is read at 64 x 32: its pixels are 0.1 times as large" in mosaic
    (inert,) = said(run, tmp_path / "tile", (512, 512))
    assert "a window of 512x512 does nothing for an image of 64 x 32" in inert
    with pytest.raises(SegRefineryError, match=r"lies in .*tile, whose images are read"):
        api.pseudo_label(run, tmp_path / "tile", tmp_path / "tile/out")
    with pytest.raises(SegRefineryError, match=r"lies in .*tile, whose images are read"):
        api.audit(run, tmp_path / "tile", tmp_path / "tile/out", 2)
    assert not (tmp_path / "tile/out").exists()
