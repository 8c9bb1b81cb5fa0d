"""Predictions of large pictures: as of whole ones, continued where they were stopped, and in their place on earth."""

from __future__ import annotations

import json
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import segrefinery.interchange.large as large
from runs import tiny_run
from segrefinery import cli
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.decoding import open_tiff
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.model import Model
from segrefinery.evaluation import strips
from segrefinery.labels import LabelSpace
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.verbs.evaluate import evaluate
from segrefinery.verbs.predict import write_predictions
from segrefinery.verbs.pseudo_label import write_labels

tifffile = pytest.importorskip("tifffile")
SPACE = LabelSpace.of("two", ["road", "car", "tree"])
GEO = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0, 0, 0, 1000.0, 2000.0, 0), True)]
RGB = np.array(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).resize((300, 200))
)


class Pointwise(Segmenter):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = nn.Conv2d(3, 3, 1), 0

    def forward(self, image):
        self.seen += image.shape[-1] * image.shape[-2] * len(image)
        return Prediction(5 * self.layer(image), image)


@pytest.fixture
def model():
    network = Pointwise().eval()
    return Model(network, network, SPACE, DataSettings(crop=(8, 8)), (64, 64))


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(strips, "LARGE", 1000)
    monkeypatch.setattr(large, "PART", 5000)
    monkeypatch.setattr(large, "OVERVIEW", 100)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", RGB, photometric="rgb", tile=(64, 64), extratags=GEO)
    Image.fromarray(RGB).save(tmp_path / "in/b.png")
    return tmp_path / "in"


def read(path):
    return tifffile.imread(path) if path.suffix == ".tif" else np.array(Image.open(path))


def test_strips_are_what_the_whole_gives(tmp_path, model, images, request):
    assert write_predictions(model, images, tmp_path / "whole").written == 2
    request.getfixturevalue("small_is_large")
    told = []
    write_predictions(model, images, tmp_path / "strips", progress=lambda done, total: told.append(done))
    assert told == sorted(told)
    assert sum(0 < done < 1 for done in told) > 2
    names = {path.name for path in (tmp_path / "strips").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}
    for name in names - {"files.csv", "made.json", "000000_a.overlay.png", "000001_b.overlay.png"}:
        assert np.array_equal(read(tmp_path / "whole" / name), read(tmp_path / "strips" / name)), name
    for folder in ("whole", "strips"):
        assert [tag.code for tag in open_tiff(tmp_path / folder / "000000_a.tif", "image").geo] == [33550, 33922]
        assert "000000_a.tif" in (tmp_path / folder / "files.csv").read_text()
    shown = read(tmp_path / "strips/000000_a.overlay.png")
    assert np.array_equal(shown, read(tmp_path / "whole/000000_a.overlay.png")[1::3, 1::3])


def test_what_was_finished_is_not_done_again(tmp_path, model, images, small_is_large):
    write_predictions(model, images / "a.tif", tmp_path / "whole")
    whole = model.network.seen

    def stop(done, total):
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(model, images / "a.tif", tmp_path / "out", progress=stop)
    assert not (tmp_path / "out/000000_a.tif").exists()
    model.network.seen = 0
    write_predictions(model, images / "a.tif", tmp_path / "out")
    assert model.network.seen < 0.8 * whole
    for name in ("000000_a.tif", "000000_a.confidence.tif", "000000_a.overlay.png"):
        assert np.array_equal(read(tmp_path / "out" / name), read(tmp_path / "whole" / name))
    assert not list((tmp_path / "out").glob("*.parts"))
    model.network.seen = 0
    (tmp_path / "out/000000_a.parts").mkdir()  # as a process leaves it that is killed after its last file
    write_predictions(model, images / "a.tif", tmp_path / "out")
    assert model.network.seen == 0
    assert not list((tmp_path / "out").glob("*.parts"))
    with torch.no_grad():
        model.network.layer.bias += 1
    with pytest.raises(SegRefineryError, match=r"other settings \(the model or how it reads images changed\)"):
        write_predictions(model, images / "a.tif", tmp_path / "out")
    write_predictions(model, images / "a.tif", tmp_path / "other")
    assert model.network.seen == whole


def test_strips_go_though_the_command_was_killed_before_it_removed_them(
    tmp_path, model, images, small_is_large, monkeypatch
):
    def killed(parts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(large.Parts, "remove", killed)
        patched.setattr(large.Parts, "begin", lambda parts, key: parts.folder.mkdir())
        with pytest.raises(KeyboardInterrupt):
            write_predictions(model, images, tmp_path / "out", size="native")
    assert list((tmp_path / "out").glob("*.parts"))
    write_predictions(model, images, tmp_path / "out", size="native")
    assert not list((tmp_path / "out").glob("*.parts"))


def test_images_that_are_finished_are_kept(tmp_path, model, images):
    (images / "c.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    first = write_predictions(model, images, out)
    assert (first.written, first.kept, len(first.unreadable)) == (2, 0, 1)
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    (out / "000001_b.overlay.png").unlink()
    told = []
    again = write_predictions(model, images, out, progress=lambda done, total: told.append((done, total)))
    assert (again.written, again.kept, len(again.unreadable)) == (2, 1, 1)
    assert told == [(2, 3), (3, 3)]
    now = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert {name for name in now if now[name] != before[name]} <= {
        "000001_b.png", "000001_b.overlay.png", "000001_b.confidence.png", "files.csv"
    }  # fmt: skip
    assert (out / "files.csv").read_text().count("\n") == 3
    with pytest.raises(SegRefineryError, match=r"other settings \(factor changed\)"):
        write_predictions(model, images, out, factor=2)


@pytest.mark.parametrize("form", ["png", "coco", "parquet"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_labels_of_large_pictures_are_those_of_the_whole(tmp_path, model, images, request, form, threshold):
    parquet = pytest.importorskip("pyarrow.parquet") if form == "parquet" else None
    write_labels(model, images, tmp_path / "whole", threshold, format=form)
    request.getfixturevalue("small_is_large")
    model.predict = None  # no probabilities of a whole picture
    write_labels(model, images, tmp_path / "strips", threshold, format=form)
    if form == "coco":
        one, other = (
            json.loads((tmp_path / f / "annotations.json").read_text())["annotations"] for f in ("whole", "strips")
        )
        assert [a["segmentation"] for a in one] == [a["segmentation"] for a in other]
        assert [a["score"] for a in one] == pytest.approx([a["score"] for a in other], abs=0.005)
        return
    if parquet:
        one, other = (
            parquet.read_table(tmp_path / folder / "part-000000.parquet").to_pylist() for folder in ("whole", "strips")
        )
        assert one == other
        return
    for name in ("000000_a.png", "000000_a.weight.png", "000001_b.png"):
        assert np.array_equal(read(tmp_path / "whole" / name), read(tmp_path / "strips" / name)), name


def test_scores_of_large_pictures_are_those_of_the_whole(tmp_path, model, images, request):
    (images / "masks").mkdir()
    ids = np.random.default_rng(0).choice([0, 1, 2, 255], RGB.shape[:2]).astype(np.uint8)
    Image.fromarray(ids).save(images / "masks/a.png")
    text = "images: '{name}.tif'\nmasks: masks/{name}.png\nclasses: [road, car, tree]\n"
    (images / "dataset.yaml").write_text(text)
    model.space = LabelSpace.of("three", ["road", "car", "sky"])
    whole = evaluate(model, f"folder:{images}")
    request.getfixturevalue("small_is_large")
    assert evaluate(model, f"folder:{images}") == whole


def test_a_broken_tile_leaves_its_picture_out_and_can_be_mended(tmp_path, model, images, small_is_large):
    whole = (images / "a.tif").read_bytes()
    tifffile.imwrite(images / "a.tif", RGB, photometric="rgb", tile=(64, 64), compression="zlib", extratags=GEO)
    with tifffile.TiffFile(images / "a.tif") as file:
        offset = file.pages[0].dataoffsets[12]
    data = bytearray((images / "a.tif").read_bytes())
    data[offset : offset + 30] = bytes(30)
    (images / "a.tif").write_bytes(data)
    result = write_predictions(model, images, tmp_path / "out")
    assert result.written == 1
    assert "a.tif: image:" in result.first_faults()
    assert "000001_b.png" in (tmp_path / "out/files.csv").read_text()
    (images / "a.tif").write_bytes(whole)
    assert write_predictions(model, images, tmp_path / "out").written == 2


def test_sizes(tmp_path, model, images):
    model.image_size, model.data = (100, 150), DataSettings(crop=(8, 8), short_side=50)
    with pytest.warns(UserWarning, match=r"300 x 200, which is read at 300 x 200: its pixels are 2 times as large"):
        result = write_predictions(model, images, tmp_path / "out", size="native")
    assert result.reading == "300 x 200 pixels are read at 300 x 200: 2 times the zoom of training"
    with pytest.warns(UserWarning, match=r"0.5 times as large .*read it at its own size \(--size native\)"):
        assert write_predictions(model, images, tmp_path / "half").reading.endswith(
            "75 x 50: 0.5 times the zoom of training"
        )
    with pytest.warns(UserWarning, match="a window of 64x64 does nothing"):
        assert "at 60 x 40" in write_predictions(model, images, tmp_path / "40", size="40").reading
    for wrong in ("big", "0", "-3"):
        with pytest.raises(SegRefineryError, match=f"--size {wrong}: write native, trained, or"):
            write_predictions(model, images, tmp_path / "out", size=wrong)


def test_the_command_of_the_documents(tmp_path, monkeypatch, capsys, small_is_large):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    section = page.partition("## Large pictures\n")[2]
    (command,) = re.findall(r"^    segrefinery (predict .*)$", section, flags=re.M)[:1]
    monkeypatch.chdir(tmp_path)
    tiny_run(Path("runs/first"), "source_only")
    Path("my").mkdir()
    tifffile.imwrite("my/mosaic.tif", RGB, photometric="rgb", tile=(64, 64), extratags=GEO)
    monkeypatch.setattr(sys, "argv", ["segrefinery", *command.split()])
    with suppress(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the zoom
        cli.main()
    assert "300 x 200 pixels are read at 300 x 200" in " ".join(capsys.readouterr().out.split())
    assert [tag.code for tag in open_tiff(Path("predicted/000000_mosaic.tif"), "image").geo] == [33550, 33922]
