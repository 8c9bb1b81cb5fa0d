"""Crops of large pictures: the part that they show is read, and it is what the whole picture shows."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import cache_folder
from segrefinery.core.pixels import IMAGENET
from segrefinery.data import loader
from segrefinery.data.cached import make_room, with_cache
from segrefinery.data.datasets import open_dataset
from segrefinery.data.files import FileDataset
from segrefinery.data.loader import training_batches
from segrefinery.data.sampling import UniformSampler
from segrefinery.data.transforms import DataSettings

tifffile = pytest.importorskip("tifffile")
SETTINGS = DataSettings(
    crop=(16, 24), scale=(0.5, 1.5), photometric=0.3, batch=2, workers=0, max_class_share=0.6,
    pixel_mean=IMAGENET.mean, pixel_std=IMAGENET.std,
)  # fmt: skip


@pytest.fixture
def town(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "cache"))
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        image = random.integers(0, 4096, (90, 120 + number, 3), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"images/{number}.tif", image, photometric="rgb", tile=(32, 32))
        mask = random.integers(0, 2, image.shape[:2], dtype=np.uint8)
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    return tmp_path


def crops(reference, settings=SETTINGS, **options):
    dataset = with_cache(open_dataset(reference), settings)
    return list(training_batches(dataset, settings, UniformSampler(3, seed=0), steps=4, **options))


def alike(one, other):
    return all(torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("line", ["bits: 12", "percentile: [2, 98]", "range: [0, 4095]"])
def test_a_crop_reads_its_part_of_a_tiled_picture(town, monkeypatch, line):
    text = f"images: images/{{name}}.tif\nmasks: masks/{{name}}.png\nclasses: [road, car]\n{line}\n"
    (town / "dataset.yaml").write_text(text)
    whole = crops(f"folder:{town}")
    monkeypatch.setattr(loader, "IN_PARTS", 1000)
    monkeypatch.setattr(FileDataset, "image", None)
    parts = crops(f"folder:{town}")
    if line.startswith("percentile"):  # measured by rows of the picture, or by all of it
        assert float((parts[0].image - whole[0].image).abs().mean()) < 0.05
    else:
        assert alike(parts, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_kept_on_disk_is_what_is_kept_in_memory(town, workers):
    text = "images: images/{name}.tif\nmasks: masks/{name}.png\nclasses: [road, car]\nbits: 12\n"
    (town / "dataset.yaml").write_text(text)
    settings = SETTINGS.model_copy(update={"short_side": 60})
    memory = crops(f"folder:{town}", settings.model_copy(update={"cache": True}))
    on_disk = settings.model_copy(update={"cache": "disk"})
    assert alike(crops(f"folder:{town}", on_disk, workers=workers), memory)
    (folder,) = (cache_folder() / "decoded").iterdir()
    assert sorted(path.name for path in folder.iterdir())[:2] == ["000000.image.npy", "000000.label.npy"]
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "000001.image.npy").write_bytes(b"cut")
    assert alike(crops(f"folder:{town}", on_disk, workers=workers), memory)
    assert [path.name for path, time in times.items() if path.stat().st_mtime_ns != time] == ["000001.image.npy"]
    os.utime(town / "images/0.tif", (1, 1))
    crops(f"folder:{town}", on_disk)
    assert len(list((cache_folder() / "decoded").iterdir())) == 2


def test_what_was_used_longest_ago_makes_room(town, monkeypatch):
    decoded = cache_folder() / "decoded"
    days = {"now": 0, "old": 3, "older": 4, "oldest": 5}
    for name, age in days.items():
        (decoded / name).mkdir(parents=True)
        (decoded / name / "000000.image.npy").write_bytes(bytes(1024))
        os.utime(decoded / name, (time.time() - 86_400 * age,) * 2)
    monkeypatch.setenv("SEGREFINERY_CACHE_GIB", str(2.5 * 1024 / 2**30))
    make_room(decoded / "older")
    assert {path.name for path in decoded.iterdir()} == {"now", "older"}
    monkeypatch.setenv("SEGREFINERY_CACHE_GIB", "0")  # what runs may be using stays all the same
    make_room(decoded / "new")
    assert {path.name for path in decoded.iterdir()} == {"now", "older", "new"}


def test_a_limit_that_is_no_number_is_one_line(town, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_CACHE_GIB", "5 GB")
    with pytest.raises(SegRefineryError, match="SEGREFINERY_CACHE_GIB is '5 GB': write a number of GiB"):
        make_room(cache_folder() / "decoded/new")
