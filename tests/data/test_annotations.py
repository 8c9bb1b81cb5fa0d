"""Annotations as regions: painted as the format's own library paints them, or refused by name before training."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures import picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data import annotations
from segrefinery.data.align import align
from segrefinery.data.annotations import painting
from segrefinery.data.annotations.brush import encode_brush
from segrefinery.data.annotations.polygons import crosses_itself
from segrefinery.data.check import check_datasets, refuse_faults
from segrefinery.data.datasets import notes_of, open_dataset
from segrefinery.data.scan import scan

mask_tools = pytest.importorskip("pycocotools.mask")

HEIGHT, WIDTH = 24, 32
BOX = np.zeros((HEIGHT, WIDTH), dtype=bool)
BOX[4:10, 8:20] = True
OUTLINE = [8, 4, 20, 4, 20, 10, 8, 10]
LABELME = Path(__file__).parent / "labelme"


pytestmark = pytest.mark.filterwarnings("ignore:.*no region is of the class")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "painted"


def coco(folder: Path, regions: list[dict], count: int = 1, name: str = "a.json", **more) -> str:
    """A COCO file of pictures 0.png, 1.png, ... in a folder of its name."""
    for index in range(count):
        picture(folder / Path(name).stem / f"{index}.png", (HEIGHT, WIDTH))
    content = {
        "images": [{"id": 7 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(count)],
        "categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "road"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 3, "iscrowd": 0, **region}
            for number, region in enumerate(regions)
        ],
        **more,
    }
    (folder / name).write_text(json.dumps(content))
    return f"coco:{folder / name}"


def packed(mask: np.ndarray) -> dict:
    code = mask_tools.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def counted(mask: np.ndarray) -> dict:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def test_coco_masks_are_those_of_its_own_library(tmp_path):
    own = pytest.importorskip("pycocotools.coco")
    rng = np.random.default_rng(0)
    corners = [(rng.random((5, 2)) * (WIDTH, HEIGHT)).ravel().round(2).tolist() for _ in range(3)]
    regions = [
        {"segmentation": [corners[0]], "category_id": 5},
        {"segmentation": [corners[1], corners[2]]},
        {"segmentation": packed(rng.random((HEIGHT, WIDTH)) < 0.2), "category_id": 5},
        {"segmentation": counted(BOX), "category_id": 3},
        {"segmentation": counted(rng.random((HEIGHT, WIDTH)) < 0.1), "iscrowd": 1},
    ]
    reference = coco(tmp_path, regions)
    dataset = open_dataset(reference)
    assert dataset.space.classes == ("background", "car", "road")
    library = own.COCO(reference.removeprefix("coco:"))
    masks = [(each, library.annToMask(each) > 0) for each in library.anns.values()]
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    for each, mask in sorted(masks, key=lambda pair: (not pair[0]["iscrowd"], -pair[1].sum())):
        expected[mask] = {3: 1, 5: 2}[each["category_id"]]
    assert np.array_equal(dataset.label(0).numpy(), expected)
    assert len(np.unique(expected)) == 3


def test_several_coco_files_go_together_by_the_names_of_their_categories(tmp_path):
    coco(tmp_path, [{"segmentation": [OUTLINE]}])
    other = [{"id": 1, "name": "Road"}, {"id": 2, "name": "car"}]
    coco(tmp_path, [{"segmentation": [OUTLINE], "category_id": 2}], name="b.json", categories=other)
    for reference in (f"coco:{tmp_path}/?.json", f"coco:{tmp_path}/a.json,{tmp_path}/b.json"):
        dataset = open_dataset(reference)
        assert dataset.space.classes == ("background", "car", "road")
        assert [dataset.name(index) for index in range(2)] == ["a/0", "b/0"]
        assert all(np.array_equal(dataset.label(index) == 1, BOX) for index in range(2))


def test_a_split_of_a_folder_is_the_file_of_its_name(tmp_path):
    (tmp_path / "annotations").mkdir()
    coco(tmp_path, [{"segmentation": [OUTLINE]}], name="val2017.json")
    shutil.move(tmp_path / "val2017.json", tmp_path / "annotations/instances_val2017.json")
    assert int((open_dataset(f"coco:{tmp_path}@val").label(0) == 1).sum()) == BOX.sum()
    with pytest.raises(SegRefineryError, match=r"write coco:.*/annotations/instances_val2017\.json"):
        open_dataset(f"coco:{tmp_path}")
    with pytest.raises(SegRefineryError, match="neither annotations/instances_night"):
        open_dataset(f"coco:{tmp_path}@night")


def test_what_no_region_covers_is_background_or_ignored(tmp_path):
    reference = coco(tmp_path, [{"segmentation": [OUTLINE]}], count=2)
    assert open_dataset(reference).label(1).unique().tolist() == [0]
    ignored = open_dataset(f"{reference},rest=ignore")
    assert ignored.space.classes == ("car", "road")
    assert ignored.label(1).unique().tolist() == [255]
    assert np.array_equal(ignored.label(0) == 0, BOX)


def test_a_coco_file_without_annotations_has_images_alone(tmp_path):
    dataset = open_dataset(coco(tmp_path, []))
    assert not dataset.has_labels
    assert dataset.image(0).shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"segmentation": [[1, 1, 5, 5]]}, "annotation 0: holds a polygon of 2 points"),
        ({"segmentation": [[1, 1, 5, 5, 9]]}, "no list of x, y"),
        ({"segmentation": [[1, 1, 40, 5, 9, 9]]}, r"a corner at \(40, 5\), outside its picture of 32 x 24"),
        ({"segmentation": [[1, 1, float("nan"), 5, 9, 9]]}, "no number"),
        ({"segmentation": []}, "only a box or points"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 9]}}, "count 14 of 768 pixels"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "=330"}}, "pixels"),
        ({"segmentation": {"size": [9, 9], "counts": "=330"}}, r"of size \[9, 9\], its picture is \[24, 32\]"),
    ],
)
def test_a_region_that_cannot_be_painted_is_refused_before_training(tmp_path, region, message):
    reference = coco(tmp_path, [region])
    dataset, target = open_dataset(reference), picture(tmp_path / "target/a.png")
    with pytest.raises(SegRefineryError, match=message) as error:
        refuse_faults(dataset, open_dataset(str(target)))
    assert str(tmp_path / "a.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images": []}, "images: lists no image"),
        ({"images": {}}, "images: is no list of COCO's"),
        ({"images": [{"id": 7, "file_name": "lost.png"}]}, r"'lost.png' is not in .*name their folder with ,images="),
        ({"categories": [{"id": 5, "name": "road"}]}, "names category 3, which is not declared"),
        ({"annotations": [{"segments_info": []}]}, "panoptic"),
        ({"annotations": [{"id": 1}]}, "lacks a key .*category_id"),
        (
            {"categories": [{"id": 3, "name": "car"}, {"id": 3, "name": "road"}]},
            "category 3: is the id of two, 'car' and 'road'; give each its own",
        ),
        ({"images": [{"id": 7, "file_name": f"{i}.png"} for i in range(2)]}, "image 7: is the id of two, '0.png' and"),
        ({"categories": [{"id": 3, "name": None}]}, "category 3: has no name of a class"),
        ({"images": [{"id": 7, "file_name": "0.png", "height": "24.5", "width": 32}]}, "states a size of 32 x 24.5"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_when_it_is_opened(tmp_path, more, message):
    reference = coco(tmp_path, [{"segmentation": [OUTLINE]}], **more)
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(reference)


def test_a_picture_of_another_size_than_it_was_annotated_at(tmp_path):
    reference = coco(tmp_path, [{"segmentation": [OUTLINE]}])
    picture(tmp_path / "a/0.png", (HEIGHT * 2, WIDTH * 2))
    with pytest.raises(SegRefineryError, match=r"was annotated at 32 x 24, its image 0.png is 64 x 48"):
        open_dataset(reference).label(0)


def test_what_is_odd_but_can_be_painted_is_said(tmp_path):
    bow = [8, 4, 20, 10, 20, 4, 8, 10]
    stray = {"segmentation": [OUTLINE], "image_id": 99}
    dataset = open_dataset(coco(tmp_path, [{"segmentation": [bow]}, stray]))
    assert "no region is of the class road" in dataset.notes[0]
    assert "1 annotations of images that it does not list" in dataset.notes[1]
    assert "1 of the first 2 polygons cross themselves, first annotation 0" in dataset.notes[2]
    target = open_dataset(str(picture(tmp_path / "target/a.png")))
    messages = [problem.message for problem in check_datasets(dataset, target).problems if problem.field == "files"]
    assert messages[:3] == list(dataset.notes)


def test_polygons_that_cross_themselves():
    assert crosses_itself([0, 0, 4, 4, 4, 0, 0, 4])
    assert not crosses_itself([0, 0, 4, 0, 4, 4, 0, 4])
    assert not crosses_itself([0, 0, 4, 0, 0, 4])
    assert not crosses_itself(OUTLINE)


def test_masks_are_painted_once_and_anew_when_anything_changes(tmp_path, cache, monkeypatch):
    reference = coco(tmp_path, [{"segmentation": [OUTLINE]}])
    dataset = open_dataset(reference)
    first = dataset.label(0)
    (file,) = cache.rglob("*.png")
    assert np.array_equal(np.array(Image.open(file)), first.numpy())
    with monkeypatch.context() as patch:
        patch.setattr(painting.PaintedMasks, "_paint", lambda *_: pytest.fail("it was painted again"))
        assert torch.equal(pickle.loads(pickle.dumps(dataset)).label(0), first)
        assert scan(dataset).faults == []
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(dataset.label(0), first)
    coco(tmp_path, [{"segmentation": [OUTLINE], "category_id": 5}])
    assert int(open_dataset(reference).label(0).max()) == 2


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "file"))
    assert np.array_equal(open_dataset(coco(tmp_path, [{"segmentation": [OUTLINE]}])).label(0) > 0, BOX)


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    reference = coco(tmp_path, [{"segmentation": [OUTLINE]}])
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    with pytest.raises(SegRefineryError, match=r"pip install 'segrefinery\[coco\]'"):
        open_dataset(reference)


# -- labelme -----------------------------------------------------------------------------------------------------------


def labelme_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("street.json", "street.png"):
        shutil.copy(LABELME / name, folder)
    return folder


def test_a_file_of_labelmes_is_painted_as_labelme_paints_it(tmp_path):
    dataset = open_dataset(f"labelme:{labelme_folder(tmp_path / 'a')}")
    assert dataset.space.classes == ("background", "car", "road", "sign", "sky")
    with Image.open(LABELME / "painted_by_labelme.png") as painted:
        assert np.array_equal(dataset.label(0).numpy(), np.array(painted))
    assert {0, 1, 2, 3, 4, 255} == set(dataset.label(0).unique().tolist())


def test_labels_txt_orders_labelmes_classes(tmp_path):
    folder = labelme_folder(tmp_path / "a")
    (folder / "labels.txt").write_text("__ignore__\n_background_\nsky\nroad\ncar\nsign\n")
    assert open_dataset(f"labelme:{folder}").space.classes == ("_background_", "sky", "road", "car", "sign")
    (folder / "labels.txt").write_text("sky\nroad\ncar\n")
    with pytest.raises(SegRefineryError, match="has a region of 'sign'; the classes are background, sky"):
        open_dataset(f"labelme:{folder}").label(0)


def changed(folder: Path, **more) -> Path:
    path = labelme_folder(folder) / "street.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"shapes": [{"label": "a", "points": [[1, 1], [9, 9]], "shape_type": "polygon"}]}, "shape 1: .* 2 points"),
        ({"shapes": [{"label": "a", "points": [[1, 1], [9, 9]], "shape_type": "line"}]}, "a line, which covers no"),
        ({"shapes": [{"label": "a", "points": [[1, 1]], "shape_type": "point"}]}, "a point, which covers no area"),
        (
            {"shapes": [{"label": "a", "points": [[1, 1]], "shape_type": "rectangle"}]},
            "holds a shape of 1 points; give it 2",
        ),
        (
            {"shapes": [{"label": "a", "points": [[1, 1], [9, 9], [9, 1]], "shape_type": "rectangle"}]},
            "rectangle that cannot be read",
        ),
        (
            {"shapes": [{"label": "a", "points": [[1, 1], [60, 9]], "shape_type": "rectangle"}]},
            r"at \(60, 9\), outside",
        ),
        (
            {"shapes": [{"label": "a", "points": [[1, None], [9, 9]], "shape_type": "circle"}]},
            "corner that is no number",
        ),
        ({"shapes": [{"label": None, "points": [[1, 1], [9, 9]]}]}, "shape 1: has no name of a class; name its class"),
        ({"shapes": [None]}, "shape 1: is no shape of labelme's"),
        ({"imageHeight": "tall"}, "imageHeight: states a size of 32 x tall"),
        ({"imageHeight": 99}, "was annotated at 32 x 99"),
        ({"imagePath": "..\\\\lost.png"}, r"'../lost.png' is not in"),
        ({"imagePath": None}, "is not labelme's"),
    ],
)
def test_a_wrong_file_of_labelmes_is_refused(tmp_path, more, message):
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(f"labelme:{changed(tmp_path / 'a', **more)}").label(0)


def test_images_without_a_file_of_labelmes_are_said(tmp_path):
    picture(labelme_folder(tmp_path / "a") / "other.png")
    dataset = open_dataset(f"labelme:{tmp_path / 'a'}")
    assert dataset.notes == ("1 images have no JSON file and are left out",)
    assert len(dataset) == 1


# -- YOLO --------------------------------------------------------------------------------------------------------------


def yolo(folder: Path, lines: str = "", val: str = "images/val") -> Path:
    share = [value / side for value, side in zip(OUTLINE, [WIDTH, HEIGHT] * 4, strict=True)]
    for split in ("train", "val"):
        for name in ("a", "empty"):
            picture(folder / f"images/{split}/{name}.png", (HEIGHT, WIDTH))
        label = folder / f"labels/{split}/a.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(lines or f"0 0 0 1 0 1 1 0 1\n1 {' '.join(map(str, share))}\n")
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: {val}\nnames: [road, car]\n")
    return folder


def test_yolo_names_that_are_not_as_many_as_nc_says_are_refused(tmp_path):
    file = yolo(tmp_path) / "data.yaml"
    file.write_text(file.read_text() + "nc: 3\n")
    with pytest.raises(SegRefineryError, match="nc: is 3, and there are 2 names"):
        open_dataset(f"yolo:{tmp_path}")


def test_categories_of_one_name_are_one_class(tmp_path):
    regions = [{"category_id": 5, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}]
    both = [{"id": 3, "name": "car"}, {"id": 5, "name": "car"}]
    assert notes_of(open_dataset(coco(tmp_path, regions, categories=both))) == ()


@pytest.mark.parametrize("split", ["", "@val"])
def test_yolo_outlines_are_painted_as_the_same_polygons_of_coco(tmp_path, split):
    dataset = open_dataset(f"yolo:{yolo(tmp_path)}{split}")
    assert dataset.space.classes == ("background", "road", "car")
    assert dataset.name(0) == f"images/{split[1:] or 'train'}/a"
    assert np.array_equal(dataset.label(0), np.where(BOX, 2, 1))
    assert dataset.label(1).unique().tolist() == [0]
    assert dataset.notes == ("1 images have no label file and are all background",)
    assert scan(dataset).faults == []


def test_yolo_outlines_that_cross_themselves_are_said(tmp_path):
    dataset = open_dataset(f"yolo:{yolo(tmp_path, '0 0 0 1 1 1 0 0 1')}")
    assert "1 of the first 1 polygons cross themselves, first a.txt: line 1" in dataset.notes[1]


def test_a_yolo_split_is_a_list_of_images_too(tmp_path):
    (tmp_path / "night.txt").write_text("./images/val/a.png\n")
    dataset = open_dataset(f"yolo:{yolo(tmp_path, val='night.txt')}@val")
    assert [dataset.name(i) for i in range(len(dataset))] == ["images/val/a"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 1: is a box, not an outline"),
        ("\n7 0 0 1 0 1 1", "line 2: names class 7, which data.yaml does not"),
        ("0 0 0 1 0 1", "an x without its y"),
        ("0 0 0 2 0 1 1", r"corner at \(64, 0\), outside"),
        ("zero 0 0", "no list of numbers"),
    ],
)
def test_a_wrong_line_of_yolo_is_refused(tmp_path, lines, message):
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(f"yolo:{yolo(tmp_path, lines)}").label(0)


def test_a_name_that_yolo_leaves_empty_is_refused(tmp_path):
    reference = f"yolo:{yolo(tmp_path, '0 0 0 1 0 1 1')}"
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [null, car]\n")
    with pytest.raises(SegRefineryError, match=r"data.yaml: names: 0: has no name of a class"):
        open_dataset(reference)


def test_splits_that_yolo_does_not_have(tmp_path):
    with pytest.raises(SegRefineryError, match="choose one of: train, val"):
        open_dataset(f"yolo:{yolo(tmp_path)}@test")
    with pytest.raises(SegRefineryError, match="'lost' does not exist"):
        open_dataset(f"yolo:{yolo(tmp_path, val='lost')}@val")


# -- CVAT and Label Studio ---------------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>road</name><color>#804080</color></label><label><name>car</name><color>#00008e</color></label>
</labels></task></meta>
<image id="0" name="a.png" subset="Train" width="32" height="24">
<polygon label="car" z_order="1" points="8.00,4.00;20.00,4.00;20.00,10.00;8.00,10.00"></polygon>
<box label="road" z_order="0" xtl="0" ytl="0" xbr="32" ybr="24"></box>
<mask label="car" z_order="2" rle="1, 2, 1" left="2" top="20" width="2" height="2"></mask>
</image>
<image id="1" name="b.png" subset="Val" width="32" height="24"></image>
</annotations>"""


def cvat(folder: Path, text: str = CVAT) -> Path:
    for name in ("a", "b"):
        picture(folder / f"images/{name}.png", (HEIGHT, WIDTH))
    (folder / "annotations.xml").write_text(text)
    return folder / "annotations.xml"


def test_a_file_of_cvats(tmp_path):
    dataset = open_dataset(f"cvat:{cvat(tmp_path)}")
    assert dataset.space.classes == ("background", "road", "car")
    assert dataset.space.colors[1] == (128, 64, 128)
    expected = np.where(BOX, 2, 1)
    expected[20, 3] = expected[21, 2] = 2
    assert np.array_equal(dataset.label(0), expected)
    assert dataset.label(1).unique().tolist() == [0]
    assert [open_dataset(f"cvat:{tmp_path}@Val").name(0)] == ["b"]
    with pytest.raises(SegRefineryError, match="choose one of: Train, Val"):
        open_dataset(f"cvat:{tmp_path}@night")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1, 2, 1", "1, 2", "image 0: mask: cannot be read .*3 of 4 pixels"),
        ('left="2"', 'left="31"', "outside its picture"),
        ("20.00,4.00;20.00,10.00;", "", "polygon of 2 points"),
        ("box", "polyline", "is no region that is read"),
        ('xbr="32"', 'xbr="32" rotation="20"', "is rotated"),
        ('width="32"', 'width="33"', "was annotated at 33 x 24"),
        ("<image", "<picture", "is no XML"),
        (' label="car"', "", "image 0: .*: has no name of a class"),
        ('z_order="1"', 'z_order="top"', "has a z_order that is no number"),
        ('width="32"', 'width="wide"', "image 0: states a size of wide x 24"),
    ],
)
def test_a_wrong_file_of_cvats_is_refused(tmp_path, old, new, message):
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(f"cvat:{cvat(tmp_path, CVAT.replace(old, new))}").label(0)


def test_cvats_images_are_told_apart_where_their_ids_are_not(tmp_path):
    for change in ('id="0" ', ""):
        same = CVAT.replace('id="0" ', change).replace('id="1" ', change)
        dataset = open_dataset(f"cvat:{cvat(tmp_path, same)}")
        assert [dataset.name(index) for index in range(2)] == ["a", "b"]
        assert [len(dataset.label(index).unique()) > 1 for index in range(2)] == [True, False]


def label_studio(folder: Path, value: dict, address: str = "/data/upload/1/0a1b2c3d-a.png") -> Path:
    size = {"original_height": HEIGHT, "original_width": WIDTH, "image_rotation": 0}
    tasks = [
        {"data": {"image": address}, "annotations": [{"result": [{"type": "x", "value": value, **size}]}]},
        {"data": {"image": "/data/upload/1/0a1b2c3d-b.png"}, "annotations": []},
    ]
    picture(folder / "images/a.png", (HEIGHT, WIDTH))
    path = folder / "project.json"
    path.write_text(json.dumps(tasks))
    return path


SHAPES = {
    "polygon": {
        "points": [[25, 100 / 6], [62.5, 100 / 6], [62.5, 1000 / 24], [25, 1000 / 24]], "polygonlabels": ["car"]
    },
    "brush": {"format": "rle", "rle": encode_brush(BOX), "brushlabels": ["car"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("address", ["/data/upload/1/0a1b2c3d-a.png", "/data/local-files/?d=images/a.png"])
def test_an_export_of_label_studios(tmp_path, kind, address):
    dataset = open_dataset(f"labelstudio:{label_studio(tmp_path, SHAPES[kind], address)}")
    assert dataset.space.classes == ("background", "car")
    assert np.array_equal(dataset.label(0), BOX)
    assert dataset.notes == ("1 tasks without an annotation are left out",)


def test_the_image_of_label_studios_task_may_have_any_key(tmp_path):
    path = label_studio(tmp_path, SHAPES["polygon"])
    path.write_text(path.read_text().replace('"image":', '"note": "wet", "photo":'))
    assert np.array_equal(open_dataset(f"labelstudio:{path}").label(0), BOX)
    path.write_text(path.read_text().replace(".png", ""))
    with pytest.raises(SegRefineryError, match="task 1: names no image; export the tasks with their data"):
        open_dataset(f"labelstudio:{path}")


def test_results_of_label_studios_that_cover_nothing_are_said(tmp_path):
    path = label_studio(tmp_path, SHAPES["polygon"])
    tasks = json.loads(path.read_text())
    tasks[0]["annotations"][0]["result"].append({"type": "choices", "value": {"choices": ["wet"]}})
    path.write_text(json.dumps(tasks))
    dataset = open_dataset(f"labelstudio:{path}")
    assert np.array_equal(dataset.label(0), BOX)
    assert dataset.notes[1] == "1 results that cover no pixels are left out (choices)"


def test_a_wrong_region_of_label_studios_is_refused(tmp_path):
    path = label_studio(tmp_path, {"ellipselabels": ["car"]})
    with pytest.raises(SegRefineryError, match="a region is x"):
        open_dataset(f"labelstudio:{path}")
    path = label_studio(tmp_path, {"points": [[0, 0], [9, 9]], "polygonlabels": ["car"]})
    with pytest.raises(SegRefineryError, match=r"a: a region of 'car': holds a polygon of 2 points; give it 3"):
        open_dataset(f"labelstudio:{path}").label(0)
    for points, message in (
        (
            [[0, 0], [9, 9], [0, 190]],
            r"a: a region of 'car': has a corner at \(0, 45.6\), outside its picture of 32 x 24",
        ),
        ([[0, 0], [9, float("nan")], [0, 9]], "has a corner that is no number"),
    ):
        path = label_studio(tmp_path, {"points": points, "polygonlabels": ["car"]})
        with pytest.raises(SegRefineryError, match=message):
            open_dataset(f"labelstudio:{path}").label(0)
    for labels, message in (([None], "task 1: a region: has no name of a class"), ([], "has no label; give it one")):
        path = label_studio(tmp_path, {"points": [[0, 0], [9, 9], [0, 9]], "polygonlabels": labels})
        path.write_text(path.read_text().replace('"x"', '"polygonlabels"'))
        with pytest.raises(SegRefineryError, match=message):
            open_dataset(f"labelstudio:{path}")


def test_files_that_windows_wrote_begin_with_a_mark(tmp_path):
    names = [coco(tmp_path, [{"segmentation": [OUTLINE]}]), f"labelme:{labelme_folder(tmp_path / 'l')}"]
    names += [f"labelstudio:{label_studio(tmp_path / 's', SHAPES['polygon'])}"]
    before = [open_dataset(name).label(0) for name in names]
    for file in [*tmp_path.glob("*.json"), *tmp_path.glob("[ls]/*.json")]:
        file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert all(torch.equal(open_dataset(name).label(0), label) for name, label in zip(names, before, strict=True))


# -- named as something else -------------------------------------------------------------------------------------------


def made(kind: str, folder: Path) -> str:
    """A data set of a kind in a folder, and its right name."""
    folder.mkdir()
    if kind == "coco":
        return coco(folder, [{"segmentation": [OUTLINE]}])
    if kind == "labelme":
        return f"labelme:{labelme_folder(folder)}"
    if kind == "yolo":
        return f"yolo:{yolo(folder)}@train"
    if kind == "cvat":
        return f"cvat:{cvat(folder)}"
    return f"labelstudio:{label_studio(folder, SHAPES['brush'])}"


@pytest.mark.parametrize("kind", annotations.ANNOTATIONS)
def test_a_wrong_guess_is_answered_with_the_right_name(tmp_path, kind):
    folder = tmp_path / "a"
    right = made(kind, folder)
    assert open_dataset(right).has_labels
    target = open_dataset(str(picture(tmp_path / "target/a.png")))
    with pytest.raises(SegRefineryError) as error:
        align(open_dataset(str(folder)), target)
    assert f"write {right}, for it holds" in str(error.value)
    (problem,) = [
        each for each in check_datasets(open_dataset(str(folder)), target).problems if each.severity == "error"
    ]
    assert f"write {right}" in problem.message
    for wrong in ("folder", "acdc", "shards", *(set(annotations.ANNOTATIONS) - {kind})):
        with pytest.raises(SegRefineryError) as error:
            open_dataset(f"{wrong}:{folder}")
        assert f"write {right}" in str(error.value), wrong


def test_label_studios_shorter_export_is_known_too(tmp_path):
    region = {**SHAPES["polygon"], "original_height": HEIGHT, "original_width": WIDTH}
    (tmp_path / "min.json").write_text(json.dumps([{"image": "/data/upload/1/a.png", "id": 1, "label": [region]}]))
    with pytest.raises(SegRefineryError, match=r"write labelstudio:.*min\.json"):
        open_dataset(f"folder:{tmp_path}")
    with pytest.raises(SegRefineryError, match=r"is a folder; write labelstudio:.*min\.json"):
        open_dataset(f"labelstudio:{tmp_path}")


def test_a_format_whose_file_has_another_name_is_told(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "town.yaml")
    with pytest.raises(SegRefineryError, match=r"write yolo:.*town\.yaml@train"):
        open_dataset(f"yolo:{tmp_path}")


def test_all_folders_of_labelmes_are_named(tmp_path):
    for name in ("mon", "tue"):
        (tmp_path / "week" / name).mkdir(parents=True)
        labelme_folder(tmp_path / "week" / name)
    with pytest.raises(SegRefineryError, match=f"write labelme:{tmp_path}/week, for it holds"):
        open_dataset(f"folder:{tmp_path}")


def test_a_right_guess_gets_no_hint(tmp_path):
    reference = coco(tmp_path, [], categories="none")
    with pytest.raises(SegRefineryError) as error:
        open_dataset(reference)
    assert "for it holds" not in str(error.value)


def test_as_a_target_nothing_is_painted(tmp_path, cache):
    reference = coco(tmp_path, [{"segmentation": [[1, 1]]}])
    source = open_dataset(f"labelme:{labelme_folder(tmp_path / 'b')}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuse_faults(source, open_dataset(reference))
    assert len(list(cache.rglob("*.png"))) == 1


@pytest.mark.parametrize("text", ["a.json,size=3", "a.json,rest=road"])
def test_an_unknown_option_is_refused(text):
    with pytest.raises(SegRefineryError, match="write images=FOLDER or rest=ignore"):
        open_dataset(f"coco:{text}")
