from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from data.pictures import SIZE, index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align
from segrefinery.data.check import check_datasets, refuse_faults
from segrefinery.data.datasets import Remapped, UnlabeledView, open_dataset
from segrefinery.data.scan import cache_folder, class_pixel_counts, fingerprint, scan
from segrefinery.labels import SPACES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def data(root, classes="[road, car, sky]", images=3, first=0):
    for i in range(images):
        picture(root / f"images/{i}.png")
        index_png(root / f"masks/{i}.png", np.resize(np.array([first, 1, i % 2, 255], dtype=np.uint8), SIZE))
    (root / "dataset.yaml").write_text(f"images: images/{{name}}.png\nmasks: masks/{{name}}.png\nclasses: {classes}\n")
    return open_dataset(f"folder:{root}")


def test_counts_are_exact_and_cached(tmp_path, cache, monkeypatch):
    dataset = data(tmp_path / "d")
    steps = []
    expected = [[12, 6, 0], [6, 12, 0], [12, 6, 0]]
    counts = class_pixel_counts(dataset, lambda done, total: steps.append((done, total)))
    assert counts.tolist() == expected
    assert counts.dtype == torch.int64
    assert steps == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(type(dataset), "label", None)
    assert class_pixel_counts(dataset).tolist() == expected
    assert not list(cache.glob("*.part"))


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, cache):
    dataset = data(tmp_path / "d")
    before = class_pixel_counts(dataset)
    next(cache.glob("counts-*")).write_text("[[1,")
    assert class_pixel_counts(dataset).equal(before)
    for file in cache.iterdir():
        file.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert class_pixel_counts(dataset).equal(before)


def test_the_fingerprint_follows_files_and_mapping_but_not_the_place(tmp_path):
    dataset = data(tmp_path / "d")
    before = fingerprint(dataset)
    assert fingerprint(open_dataset(f"folder:{tmp_path / 'd'}")) == before
    (tmp_path / "d").rename(tmp_path / "moved")
    moved = open_dataset(f"folder:{tmp_path / 'moved'}")
    assert fingerprint(moved) != before  # the space is named after its folder
    assert fingerprint(UnlabeledView(moved)) != fingerprint(moved)
    assert fingerprint(Remapped(moved, SPACES["cityscapes"])) != fingerprint(moved)
    again = fingerprint(moved)
    index_png(tmp_path / "moved/masks/0.png", np.ones(SIZE, dtype=np.uint8))
    assert fingerprint(moved) != again
    (tmp_path / "moved/masks/0.png").unlink()
    with pytest.raises(SegRefineryError, match=r"masks/0.png"):
        fingerprint(moved)


def test_scan_collects_every_fault_and_does_not_keep_them(tmp_path, cache):
    dataset = data(tmp_path / "d", images=5)
    picture(tmp_path / "d/images/1.png", size=(8, 6))
    index_png(tmp_path / "d/masks/2.png", np.full(SIZE, 77, dtype=np.uint8))
    image = tmp_path / "d/images/3.png"
    image.write_bytes(image.read_bytes()[:40])
    (tmp_path / "d/masks/4.png").unlink()
    found = scan(dataset)
    assert [fault.file[-11:] for fault in found.faults] == ["masks/1.png", "masks/2.png", "mages/3.png", "masks/4.png"]
    assert found.sizes == {"6x4": 3, "6x8": 1}
    assert not cache.exists()


def test_scan_is_cached(tmp_path, cache):
    found = scan(data(tmp_path / "d"))
    assert found.pixels == [30, 24, 0, 18]
    stored = next(cache.glob("scan-*"))
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "images": 99}))
    assert scan(open_dataset(f"folder:{tmp_path / 'd'}")).images == 99


def test_cache_folder_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("SEGREFINERY_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "segrefinery"


def messages(report):
    return [f"{p.severity} {p.role} {p.field} {p.message}" for p in report.problems]


def test_check_reports_counts_and_shares(tmp_path):
    source, target = data(tmp_path / "s"), data(tmp_path / "t", "[Sky, Car, bike]", first=1)
    seen = []
    report = check_datasets(
        source, target, data(tmp_path / "e", "[Car, Sky]"), progress=lambda *step: seen.append(step)
    )
    assert report.ok
    assert report.space is not None
    assert report.space.classes == ("Car", "Sky")
    assert [(s.role, s.images, s.sizes) for s in report.sides] == [
        (role, 3, {"6x4": 3}) for role in ("source", "target", "evaluation")
    ]
    assert report.sides[0].shares == (1.0, 0.0)
    assert report.sides[1].shares is None
    assert report.sides[2].shares == pytest.approx((30 / 54, 24 / 54))
    assert seen[-1] == ("evaluation", 3, 3)
    assert messages(report) == ["warning source classes no pixel of Sky, which therefore cannot be learned"]


def test_a_run_says_what_masks_show_nothing_of(tmp_path):
    together = align(data(tmp_path / "s"), data(tmp_path / "t", "[Sky, Car, bike]", first=1))
    with pytest.warns(UserWarning, match="source: .*: classes: no pixel of Sky, which therefore cannot be learned"):
        refuse_faults(together.source, together.target)


def test_check_names_every_fault(tmp_path):
    source, target = data(tmp_path / "s"), data(tmp_path / "t", images=1)
    index_png(tmp_path / "s/masks/0.png", np.zeros((2, 2), dtype=np.uint8))
    report = check_datasets(source, target)
    assert not report.ok
    assert report.problems[0].file.endswith("s/masks/0.png")
    assert report.problems[0].remedy
    assert messages(report)[1:] == ["warning target images there is one image only"]


def test_check_without_common_class_or_labels(tmp_path):
    source, other = data(tmp_path / "s"), data(tmp_path / "o", "[cat, dog]")
    report = check_datasets(source, other)
    assert not report.ok
    assert report.space is None
    assert "in common" in report.problems[0].message
    assert [side.images for side in report.sides] == [3, 3]
    assert not check_datasets(open_dataset(str(tmp_path / "s/images")), other).ok


def test_check_sees_the_same_images_on_two_sides(tmp_path):
    source = data(tmp_path / "s")
    same = open_dataset(str(tmp_path / "s/images"))
    assert "error target path all its images are in the source: there is nothing to adapt to" in messages(
        check_datasets(source, same)
    )
    part = open_dataset(str(tmp_path / "s/images/[01].png"))
    assert "error target path all its images are in the source: there is nothing to adapt to" in messages(
        check_datasets(source, part)
    )
    other = data(tmp_path / "o")
    found = messages(check_datasets(source, other, other))
    assert "warning evaluation path 3 of its 3 images are also in the target" in found


def test_a_class_of_the_evaluation_that_the_source_lacks_is_a_warning(tmp_path):
    evaluation = data(tmp_path / "e", "[road, car, bike]")
    report = check_datasets(data(tmp_path / "s"), open_dataset(str(tmp_path / "e/images")), evaluation)
    assert any(m.startswith("warning evaluation classes bike is not used") for m in messages(report))
