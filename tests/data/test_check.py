"""What is refused before a run: every file is read once, quickly, and the first fault is named."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from data.pictures import SIZE, index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data import scan as scanning
from segrefinery.data.align import align
from segrefinery.data.check import check_datasets, refuse_faults
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.scan import class_pixel_counts, scan


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(scanning, "usable_cores", lambda: 4)


def data(root, images=3):
    for i in range(images):
        picture(root / f"images/{i:02d}.png", value=i)
        index_png(root / f"masks/{i:02d}.png", np.full(SIZE, i % 3, dtype=np.uint8))
    (root / "dataset.yaml").write_text("images: images/{name}.png\nmasks: masks/{name}.png\nclasses: [road, car, sky]")
    return open_dataset(f"folder:{root}")


def test_whole_data_are_read_once_and_then_never_again(tmp_path, monkeypatch):
    source, target, evaluation = (data(tmp_path / name) for name in "ste")
    seen = []
    refuse_faults(source, target, evaluation, lambda *step: seen.append(step))
    assert seen == [(role, done, 3) for role in ("source", "target", "evaluation") for done in (1, 2, 3)]
    monkeypatch.setattr("segrefinery.data.files.read_image", None)
    seen.clear()
    refuse_faults(source, UnlabeledView(target), evaluation, lambda *step: seen.append(step))
    assert seen == [(role, 3, 3) for role in ("source", "target", "evaluation")]


def test_check_and_the_refusal_share_what_they_read(tmp_path, monkeypatch):
    source, target = data(tmp_path / "s"), data(tmp_path / "t")
    check_datasets(source, target)
    together = align(source, target)
    monkeypatch.setattr("segrefinery.data.files.read_image", None)
    refuse_faults(together.source, target)


def test_the_first_fault_is_named_and_the_others_are_counted(tmp_path):
    source, target, evaluation = (data(tmp_path / name) for name in "ste")
    image = tmp_path / "t/images/01.png"
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(SegRefineryError) as alone:
        refuse_faults(source, target, evaluation)
    assert str(alone.value) == (
        f"target: {image}: image: truncated or damaged; copy it again, convert it or remove it."
    )
    index_png(tmp_path / "e/masks/00.png", np.full(SIZE, 77, dtype=np.uint8))
    index_png(tmp_path / "s/masks/02.png", np.zeros((2, 2), dtype=np.uint8))
    with pytest.raises(SegRefineryError) as found:
        refuse_faults(source, target, evaluation)
    assert str(found.value).startswith(f"source: {tmp_path}/s/masks/02.png: mask: is 2 x 2, its image 02.png 6 x 4")
    assert str(found.value).endswith("or remove the pair. 2 more are wrong; `segrefinery check` lists them all.")


def test_masks_of_the_target_are_not_looked_at(tmp_path):
    source, target = data(tmp_path / "s"), data(tmp_path / "t")
    index_png(tmp_path / "t/masks/00.png", np.full(SIZE, 77, dtype=np.uint8))
    refuse_faults(source, target)


def test_what_is_generated_has_no_files_to_read(tmp_path, monkeypatch):
    scenes = open_dataset("scenes:night,count=3,size=32x48")
    monkeypatch.setattr(type(scenes), "image", None)
    seen = []
    refuse_faults(scenes, data(tmp_path / "t"), scenes, lambda *step: seen.append(step[0]))
    assert seen == ["target"] * 3


def test_threads_keep_the_order_and_read_only_a_little_ahead(tmp_path, threads, monkeypatch):
    dataset = data(tmp_path / "d", images=40)
    index_png(tmp_path / "d/masks/07.png", np.full(SIZE, 77, dtype=np.uint8))
    (tmp_path / "d/images/05.png").write_bytes(b"no picture")
    own, begun, used = type(dataset).image, [], set()

    def slow(self, index):
        begun.append(index)
        used.add(threading.get_ident())
        time.sleep(0.002 if index % 2 else 0.0)
        return own(self, index)

    monkeypatch.setattr(type(dataset), "image", slow)
    ahead = []
    found = scan(dataset, lambda done, total: ahead.append(len(begun) - done))
    assert [fault.file[-9:] for fault in found.faults] == ["es/05.png", "ks/07.png"]
    assert found.images == 40
    assert len(used) > 1
    assert max(ahead) <= 8
    assert len(begun) == 40
    index_png(tmp_path / "d/masks/07.png", np.full(SIZE, 1, dtype=np.uint8))
    picture(tmp_path / "d/images/05.png")
    assert class_pixel_counts(dataset).argmax(dim=1).tolist() == [i % 3 for i in range(40)]


def test_who_stops_a_scan_does_not_wait_for_the_rest(tmp_path, threads, monkeypatch):
    dataset = data(tmp_path / "d", images=40)
    own, begun = type(dataset).image, []
    monkeypatch.setattr(type(dataset), "image", lambda self, index: begun.append(index) or own(self, index))

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(dataset, stop)
    assert len(begun) < 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_generated_data_are_scanned_without_threads(threads, monkeypatch):
    scenes = open_dataset("scenes:night,count=6,size=32x48")
    own, used = type(scenes).image, set()
    monkeypatch.setattr(
        type(scenes), "image", lambda self, index: used.add(threading.current_thread()) or own(self, index)
    )
    assert scan(scenes).images == 6
    assert used == {threading.main_thread()}


def test_masks_without_a_labelled_pixel_are_an_error(tmp_path):
    source, target, evaluation = (data(tmp_path / name) for name in "ste")
    for path in (tmp_path / "e/masks").iterdir():
        index_png(path, np.full(SIZE, 255, dtype=np.uint8))
    with pytest.raises(SegRefineryError, match=r"evaluation: .*every pixel of its masks is ignored"):
        refuse_faults(source, UnlabeledView(target), evaluation)
    errors = [problem for problem in check_datasets(source, target, evaluation).problems if problem.severity == "error"]
    assert [(problem.role, problem.field) for problem in errors] == [("evaluation", "masks")]


def test_a_missing_mask_is_told_once_and_of_the_side_that_lacks_it(tmp_path):
    source, target, evaluation = (data(tmp_path / name) for name in "ste")
    missing = [tmp_path / "e/masks/00.png", tmp_path / "e/masks/02.png"]
    for mask in missing:
        mask.unlink()
    evaluation = open_dataset(f"folder:{tmp_path / 'e'}")
    errors = [problem for problem in check_datasets(source, target, evaluation).problems if problem.severity == "error"]
    assert [(problem.role, problem.file) for problem in errors] == [("evaluation", str(mask)) for mask in missing]
    assert "2 of 3 images have no mask" in errors[0].message
