"""Shards and data sets of Hugging Face: the same pixels as their own libraries', and what is missing in one line."""

from __future__ import annotations

import io
import shutil
import socket
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.data import packed
from segrefinery.data.datasets import open_dataset
from segrefinery.data.scan import scan

DICE = np.random.default_rng(0)
PICTURES = [DICE.integers(0, 256, (8, 12, 3), dtype=np.uint8) for _ in range(4)]
MASKS = [DICE.integers(0, 2, (8, 12), dtype=np.uint8) for _ in range(4)]


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def pack(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path) -> Path:
    for shard in range(2):
        files = {}
        for n in (2 * shard, 2 * shard + 1):
            files |= {
                f"ride/{n:04d}.png": png(PICTURES[n]),
                f"ride/{n:04d}.seg.png": png(MASKS[n]),
                f"ride/{n}.json": b"{}",
            }
        pack(tmp_path / f"part-00{shard}.tar", files)
    (tmp_path / "names.txt").write_text("road\ncar\n")
    return tmp_path


def test_shards_are_read_in_any_order(shards):
    for pattern in ("part-*.tar", "part-{000..001}.tar"):
        dataset = open_dataset(f"shards:{shards}/{pattern},classes={shards}/names.txt")
        assert [dataset.name(n) for n in range(4)] == [f"ride/000{n}" for n in range(4)]
        for n in (3, 0, 2):
            assert np.array_equal(dataset.image(n).permute(1, 2, 0).numpy(), PICTURES[n])
            assert np.array_equal(dataset.label(n).numpy(), MASKS[n])
    assert scan(dataset).faults == []
    bare = open_dataset(f"shards:{shards}/part-000.tar")
    assert not bare.has_labels
    assert "2 masks are not read" in bare.notes[0]


def test_what_is_wrong_with_a_shard_is_one_line(shards):
    pack(shards / "bare.tar", {"7.jpg": png(PICTURES[0]), "8.png": png(PICTURES[1]), "8.mask.png": png(MASKS[1])})
    with pytest.raises(SegRefineryError, match=r"bare\.tar: masks: 7 has no mask, one of 1 of 2 images"):
        open_dataset(f"shards:{shards}/bare.tar,classes=cityscapes")
    pack(shards / "twice.tar", {"ride/0001.png": png(PICTURES[0])})
    with pytest.raises(SegRefineryError, match=r"ride/0001 is there twice: ride/0001\.png in part-000\.tar"):
        open_dataset(f"shards:{shards}/*.tar")
    pack(shards / "small.tgz", {"1.png": png(PICTURES[0])}, "w:gz")
    with pytest.raises(SegRefineryError, match="decompress it"):
        open_dataset(f"shards:{shards}/small.tgz")
    with pytest.raises(SegRefineryError, match="does not exist"):
        open_dataset(f"shards:{shards}/no-*.tar")
    pack(shards / "wide.tar", {"1.png": png(PICTURES[0]), "1.mask.png": png(MASKS[0] + 9)})
    with pytest.raises(SegRefineryError, match=r"ids that no class has: 9, 10; .*with ,classes=, and write 255"):
        open_dataset(f"shards:{shards}/wide.tar,classes={shards}/names.txt").label(0)
    clear = png(np.stack([MASKS[0], 0 * MASKS[0]], axis=-1))
    pack(shards / "clear.tar", {"1.png": png(PICTURES[0]), "1.mask.png": clear})
    with pytest.raises(SegRefineryError, match=r"are transparent, and nothing says [^.]*save it without alpha\W*$"):
        open_dataset(f"shards:{shards}/clear.tar,classes={shards}/names.txt").label(0)


def test_a_mask_is_read_without_its_image(shards, monkeypatch):
    """Of which the header says the size, turned as it is seen."""
    turned = Image.fromarray(PICTURES[0].transpose(1, 0, 2))
    mark = turned.getexif()
    mark[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, format="JPEG", exif=mark)
    pack(shards / "turned.tar", {"7.jpg": file.getvalue(), "7.mask.png": png(MASKS[0])})
    pack(shards / "other.tar", {"7.jpg": file.getvalue(), "7.mask.png": png(MASKS[0].T)})
    datasets = [open_dataset(f"shards:{shards}/{name}.tar,classes={shards}/names.txt") for name in ("turned", "other")]
    assert datasets[0].image(0).shape[1:] == MASKS[0].shape
    monkeypatch.setattr("segrefinery.data.packed.read_image", None)
    assert np.array_equal(datasets[0].label(0).numpy(), MASKS[0])
    with pytest.raises(SegRefineryError, match="is 8 x 12, its image 12 x 8 pixels"):
        datasets[1].label(0)


def test_masks_of_a_shard_without_their_image_are_said(shards):
    pack(shards / "stray.tar", {"8.png": png(PICTURES[1]), "8.mask.png": png(MASKS[1]), "9.mask.png": png(MASKS[1])})
    dataset = open_dataset(f"shards:{shards}/stray.tar,classes=cityscapes")
    assert (len(dataset), dataset.notes) == (1, ("1 masks have no image, first 9",))


def test_archives_say_what_to_do(shards):
    with zipfile.ZipFile(shards / "all.zip", "w") as archive:
        archive.writestr("a.png", png(PICTURES[0]))
    for reference, remedy in ((f"{shards}/all.zip", "unpack it"), (f"coco:{shards}/all.zip", "unpack it"),
                              (f"{shards}/part-000.tar", "write shards:")):  # fmt: skip
        with pytest.raises(SegRefineryError, match=f"is an archive.*{remedy}"):
            open_dataset(reference)


def test_a_hub_data_set_of_a_local_folder(tmp_path):
    library = pytest.importorskip("datasets")
    names = library.ClassLabel(names=["road", "car"])
    features = library.Features(
        {"image": library.Image(), "annotation": library.Image(), "objects": library.Sequence({"category": names})}
    )
    rows = {
        "image": [{"bytes": png(each), "path": None} for each in PICTURES],
        "annotation": [{"bytes": png(each), "path": None} for each in MASKS],
        "objects": [{"category": [0, 1]}] * 4,
    }
    table = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    dataset = open_dataset(f"hfds:{tmp_path}/saved@train")
    assert dataset.space is not None
    assert dataset.space.classes == ("road", "car")
    for n in range(4):
        theirs = table[n]
        assert np.array_equal(dataset.image(n).permute(1, 2, 0).numpy(), np.array(theirs["image"]))
        assert torch.equal(dataset.label(n), torch.from_numpy(np.array(theirs["annotation"])).long())
    with pytest.raises(SegRefineryError, match="there is no split 'night'; choose one of: train"):
        open_dataset(f"hfds:{tmp_path}/saved@night")
    with pytest.raises(SegRefineryError, match=r"no column of pictures 'picture'; write image= with one of: image"):
        open_dataset(f"hfds:{tmp_path}/saved,image=picture")


def test_what_an_image_is_names_no_classes_of_its_mask(tmp_path):
    library = pytest.importorskip("datasets")
    features = library.Features(
        {"photo": library.Image(), "mask": library.Image(), "weather": library.ClassLabel(names=["dry", "wet"])}
    )
    rows = {
        "photo": [{"bytes": png(each), "path": None} for each in PICTURES],
        "mask": [{"bytes": png(each), "path": None} for each in MASKS],
        "weather": [0, 1, 0, 1],
    }
    library.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    dataset = open_dataset(f"hfds:{tmp_path}/saved")
    assert not dataset.has_labels
    assert "nothing says their classes" in dataset.notes[0]
    with pytest.raises(SegRefineryError, match="split: this folder was saved as one set; leave @test away"):
        open_dataset(f"hfds:{tmp_path}/saved@test")
    with pytest.raises(SegRefineryError, match=f"write hfds:{tmp_path}/saved, for it holds"):
        open_dataset(f"folder:{tmp_path}/saved")


def test_a_folder_of_shards_is_told_how_to_be_named(shards):
    for wrong in (f"{shards}", f"folder:{shards}", f"coco:{shards}", f"shards:{shards}"):
        with pytest.raises(SegRefineryError, match=r"write shards:.*/\*\.tar"):
            open_dataset(wrong)


def test_the_first_rows_are_streamed(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "data/train"
    folder.mkdir(parents=True)
    for number, each in enumerate(PICTURES):
        (folder / f"{number}.png").write_bytes(png(each))
    opened = []
    load = library.load_dataset
    monkeypatch.setattr(library, "load_dataset", lambda *a, **k: opened.append(k) or load(*a, **k))
    dataset = open_dataset(f"hfds:{tmp_path}/data,first=2@train")
    assert opened[0]["streaming"]
    assert len(dataset) == 2
    assert [dataset.name(n) for n in range(2)] == ["000000_0", "000001_1"]
    for n in range(2):
        assert np.array_equal(dataset.image(n).permute(1, 2, 0).numpy(), PICTURES[n])
    assert len(open_dataset(f"hfds:{tmp_path}/data,first=99@train")) == len(PICTURES)
    with pytest.raises(SegRefineryError, match="first: is 'all'; write how many rows"):
        open_dataset(f"hfds:{tmp_path}/data,first=all@train")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SegRefineryError, match=r"segrefinery\[datasets\]"):
        open_dataset("hfds:org/name@train")


def test_without_the_hub_what_was_fetched_is_read_and_a_wrong_name_said_at_once(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(packed, "why_unreachable", lambda: "no route to host")
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_a, **_k: asked.append(host) or [])
    features = library.Features({"image": library.Image()})
    rows = {"image": [{"bytes": png(each), "path": None} for each in PICTURES]}
    fetched = tmp_path / "cache/org___name/default/0.0.0/0123456789abcdef"
    library.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    fetched.mkdir(parents=True)
    shutil.copyfile(tmp_path / "saved/data-00000-of-00001.arrow", fetched / "name-train.arrow")
    split = library.SplitDict({"train": library.SplitInfo("train", num_examples=4, dataset_name="name")})
    names = {"builder_name": "parquet", "dataset_name": "name", "config_name": "default"}
    library.DatasetInfo(features=features, splits=split, **names).write_to_directory(str(fetched))
    dataset = open_dataset("hfds:org/name@train")
    assert [np.array_equal(dataset.image(n).permute(1, 2, 0).numpy(), PICTURES[n]) for n in range(4)] == [True] * 4
    for wrong in ("hfds:org/nothing", "hfds:org/nothing,first=2"):
        with pytest.raises(
            SegRefineryError, match=r"not fetched before, and the hub cannot .*\(no route to host\); che"
        ):
            open_dataset(wrong)
    assert not asked
    assert not library.config.HF_HUB_OFFLINE
