"""Labels in the forms that other tools train on, read back by their libraries and by our own readers."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import segrefinery as api
from data.pictures import picture
from runs import command, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.numbering import numbered_as, numbering_of
from segrefinery.interchange.labels import LABEL_FORMATS, Item, PngLabels
from segrefinery.interchange.labels.yolo import outlines
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.verbs.predict import write_predictions
from segrefinery.verbs.pseudo_label import write_labels

SPACE = LabelSpace.of("three", ("background", "road", "car"), {"road": (128, 64, 128), "car": (0, 0, 142)})
SIZE = (24, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "cache"))


def label_of(seed: int) -> torch.Tensor:
    """A road with a hole and ragged edges, cars of single pixels on it, one car that is cut by the border."""
    label = torch.zeros(SIZE, dtype=torch.int64)
    label[10:, 2:36] = 1
    label[14:18, 10:14] = 0
    label[torch.rand(SIZE, generator=torch.Generator().manual_seed(seed)) < 0.1] = 2
    label[3:9, 30:] = 2
    return label


def probs_of(label: torch.Tensor, confidence: float = 0.8) -> torch.Tensor:
    probs = torch.full((3, *label.shape), (1 - confidence) / 2)
    return probs.scatter_(0, label[None], confidence)


def written(root: Path, form: str, **settings) -> list[Item]:
    """Labels of three images in a folder with a subfolder."""
    writer = LABEL_FORMATS[form](root / "out", SPACE, **settings)
    items = [Item(n, name, root / "in" / f"{name}.png") for n, name in enumerate(("a", "ride 1/b", "ride 1/ünï"))]
    for item in items:
        assert item.file is not None
        picture(item.file, SIZE)
        assert not writer.finished(item)
        image = torch.zeros(3, *SIZE, dtype=torch.uint8)
        writer.write(item, image, writer.labelled(probs_of(label_of(item.index))))
        assert writer.finished(item)
    writer.finish(items)
    return items


def test_coco_is_read_by_its_own_library_and_by_ours(tmp_path):
    coco_api = pytest.importorskip("pycocotools.coco")
    items = written(tmp_path, "coco")
    found = coco_api.COCO(str(tmp_path / "out/annotations.json"))
    assert {one["name"]: one["id"] for one in found.loadCats(found.getCatIds())} == {"road": 1, "car": 2}
    ours = open_dataset(f"coco:{tmp_path}/out/annotations.json")
    assert ours.space is not None
    assert ours.space.classes == SPACE.classes
    assert [ours.name(n) for n in range(3)] == [item.name for item in items]
    for number, item in enumerate(items):
        truth = label_of(item.index)
        assert torch.equal(ours.label(number), truth)
        annotations = found.loadAnns(found.getAnnIds(imgIds=[number + 1]))
        assert len(annotations) == 2
        for each in annotations:
            cover = truth == each["category_id"]
            assert np.array_equal(found.annToMask(each).astype(bool), cover.numpy())
            assert each["area"] == int(cover.sum())
            assert each["score"] == pytest.approx(0.8, abs=1e-4)
    results = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    found.loadRes(results)  # as detections with their scores
    assert os.path.samefile(items[1].file, tmp_path / "out/images/ride 1/b.png")


def test_yolo_outlines_cover_the_same_pixels(tmp_path):
    pytest.importorskip("cv2")
    pytest.importorskip("pycocotools")
    written(tmp_path, "yolo")
    described = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert described["names"] == {0: "road", 1: "car"}
    ours = open_dataset(f"yolo:{tmp_path}/out")
    for number in range(3):
        assert torch.equal(ours.label(number), label_of(number))


@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.9])
def test_an_outline_holds_the_centres_of_its_pixels_and_no_others(density):
    """By the painter of YOLO's own trainer, which fills polygons of whole pixels."""
    cv2 = pytest.importorskip("cv2")
    cover = np.random.default_rng(0).random((31, 47)) < density
    painted = np.zeros(cover.shape, dtype=np.uint8)
    for corners in outlines(cover):
        assert len(corners) >= 3
        cv2.fillPoly(painted, [np.floor(corners).astype(np.int32)], 1)
    missing, added = cover & (painted == 0), ~cover & (painted == 1)
    assert missing.sum() == 0
    assert added.sum() <= 0.02 * cover.size  # corners over which regions touch


def test_ignored_pixels_and_what_a_form_cannot_say(tmp_path):
    for form in ("coco", "yolo"):
        (remark,) = LABEL_FORMATS[form](tmp_path, SPACE, threshold=0.9).remarks()
        assert "take for background" in remark
    writer = PngLabels(tmp_path, SPACE, threshold=0.9)
    writer.write(Item(0, "a"), torch.zeros(3, *SIZE, dtype=torch.uint8), writer.labelled(probs_of(label_of(0))))
    assert np.unique(np.array(Image.open(tmp_path / "000000_a.png"))).tolist() == [IGNORE]


def source(root: Path, described: str, mask: np.ndarray | Image.Image) -> str:
    for name in ("1", "2"):
        picture(root / f"images/{name}.png", SIZE)
        (root / "masks").mkdir(exist_ok=True)
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(root / f"masks/{name}.png")
    text = f"images: images/{{name}}.png\nmasks: masks/{{name}}.png\n{described}\n"
    (root / "dataset.yaml").write_text(text)
    return f"folder:{root}"


def read_again(root: Path, reference: str, label: torch.Tensor, described: str) -> torch.Tensor:
    """A label in a data set's own ids, read as one of its masks."""
    numbering = numbered_as(SPACE, numbering_of(open_dataset(reference)))
    image = numbering.picture(label)
    return open_dataset(source(root / "again", described, image)).label(0)


IDS = "classes: {0: null, 7: road, 11: van, 26: car, 30: background}\nmerge: {van: car}\nignore: [1]"
COLORS = "colors: {van: [9, 9, 9], road: [128, 64, 128], car: [0, 0, 142], background: [1, 2, 3]}\nmerge: {van: car}"
WIDE = "classes: {7: road, 4000: car, 300: background}"


@pytest.mark.parametrize("described", [IDS, COLORS, WIDE], ids=["ids", "colours", "16 bits"])
def test_labels_in_the_ids_of_the_source_are_read_as_its_masks(tmp_path, described):
    mask = Image.new("RGB", SIZE[::-1], (1, 2, 3)) if described is COLORS else Image.new("L", SIZE[::-1], 7)
    reference = source(tmp_path / "own", described, mask)
    label = label_of(0)
    label[0, :5] = IGNORE
    found = read_again(tmp_path, reference, label, described)
    space = open_dataset(reference).space
    assert space is not None
    for place, name in enumerate(SPACE.classes):
        assert torch.equal(found == space.id_of(name), label == place)
    assert torch.equal(found == IGNORE, label == IGNORE)


def test_of_merged_classes_the_one_of_that_name_is_written_and_the_palette_is_kept(tmp_path):
    mask = Image.fromarray(np.full(SIZE, 7, np.uint8))
    mask.putpalette(list(range(256)) * 3)
    dataset = open_dataset(source(tmp_path, IDS, mask))
    numbering = numbered_as(SPACE, numbering_of(dataset))
    assert numbering.codes == (30, 7, 26)
    assert numbering.picture(label_of(0)).getpalette() == list(range(256)) * 3
    with pytest.raises(SegRefineryError, match="has no class 'lamp'"):
        numbered_as(LabelSpace.of("x", ("road", "lamp")), numbering_of(dataset))


def test_where_255_is_a_class_nothing_can_be_ignored(tmp_path):
    reference = source(tmp_path, "classes: {0: background, 255: crack}", np.zeros(SIZE, np.uint8))
    numbering = numbering_of(open_dataset(reference))
    assert np.unique(np.array(numbering.picture(torch.tensor([[0, 1]])))).tolist() == [0, 255]
    with pytest.raises(SegRefineryError, match="no id for pixels that are to be ignored"):
        numbering.picture(torch.tensor([[0, IGNORE]]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("run") / "run", "source_only")


@pytest.fixture
def camera(tmp_path) -> Path:
    for name in ("a", "b/c"):
        picture(tmp_path / "camera" / f"{name}.png", (32, 64))
    return tmp_path / "camera"


def test_what_is_finished_is_not_done_again(run, camera, tmp_path):
    out = tmp_path / "out"
    assert write_labels(run, camera, out, 0.1).kept == 0
    first = out / "000000_a.png"
    before = first.stat().st_mtime_ns
    (out / "000001_b_c.png").unlink()
    assert write_labels(run, camera, out, 0.1).kept == 1
    assert first.stat().st_mtime_ns == before
    os.utime(camera / "a.png", ns=(before + 10**9, before + 10**9))
    assert write_labels(run, camera, out, 0.1).kept == 1  # its image is newer
    with pytest.raises(SegRefineryError, match=r"other settings \(threshold changed\)"):
        write_labels(run, camera, out, 0.2)


def test_two_images_of_one_stem_have_two_label_files(run, tmp_path):
    pytest.importorskip("cv2")
    for name in ("a.jpg", "a.png"):
        picture(tmp_path / "in" / name, (32, 64))
    write_predictions(run, tmp_path / "in", tmp_path / "out", format="yolo")
    assert {path.name for path in (tmp_path / "out/labels/train").iterdir()} == {"a.jpg.txt", "a.png.txt"}
    assert len(open_dataset(f"yolo:{tmp_path}/out")) == 2


def test_names_are_the_images_and_one_that_cannot_be_read_is_said(run, camera, tmp_path):
    (camera / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(SegRefineryError, match=r"1 of 3 images were left out: .*bad\.png"):
        api.pseudo_label(run, camera, tmp_path / "out", names="images")
    assert (tmp_path / "out/labels/b/c.png").exists()
    assert (tmp_path / "out/weights/b/c.png").exists()
    with (tmp_path / "out/files.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["labels/a.png", "labels/b/c.png"]


def test_the_commands_write_every_form(run, camera, tmp_path, monkeypatch, capsys):
    call = lambda *words: command(monkeypatch, capsys, *words)  # noqa: E731
    code, said, _ = call("pseudo-label", run, camera, "-o", tmp_path / "coco", "--format", "coco", "--ids", "source")
    assert code == 0
    assert "2 labels written" in said
    classes = json.loads((tmp_path / "coco/annotations.json").read_text())["categories"]
    assert classes[3] == {"id": 3, "name": api.load(run).space.classes[3]}  # the scenes' own ids, from 0 on
    assert call("predict", run, camera, "-o", tmp_path / "yolo", "--format", "yolo")[0] == 0
    assert len(open_dataset(f"yolo:{tmp_path}/yolo")) == 2
    code, _, complained = call("predict", run, camera, "-o", tmp_path / "x", "--format", "yoloo")
    assert code == 2
    assert "yolo" in complained
    code, _, complained = call("pseudo-label", run, camera, "-o", tmp_path / "y", "--ids", "gta5:/nowhere")
    assert code == 2
    assert "/nowhere" in complained


def test_images_that_are_no_files_are_written_beside_their_labels(run, tmp_path):
    write_predictions(run, "scenes:night,count=2,size=32x64", tmp_path / "out", format="coco")
    ours = open_dataset(f"coco:{tmp_path}/out/annotations.json")
    scenes = open_dataset("scenes:night,count=2,size=32x64")
    assert torch.equal(ours.image(1), scenes.image(1))
    with pytest.raises(SegRefineryError, match="leave --factor away"):
        write_predictions(run, "scenes:night,count=2", tmp_path / "y", format="coco", factor=2)
