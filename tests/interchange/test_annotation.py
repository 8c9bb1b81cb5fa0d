"""Masks on their way to annotation tools and back."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.annotations.brush import decode_brush, encode_brush
from segrefinery.data.label_files import file_stem
from segrefinery.interchange.annotation import read_masks, tool_colors, write_cvat, write_label_studio
from segrefinery.interchange.predictions import write_prediction
from segrefinery.labels import LabelSpace

SPACE = LabelSpace("three", ("road", "traffic light", "sky & <sun>"), ((0, 0, 0), (9, 9, 9), (9, 9, 9)))
SIZES = {"000001_a": (6, 9), "000002_b": (5, 4)}


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    return {stem: rng.integers(0, 3, size, dtype=np.uint8) for stem, size in SIZES.items()}


@pytest.fixture
def folder(tmp_path, masks):
    (tmp_path / "images").mkdir()
    for stem, mask in masks.items():
        Image.fromarray(np.stack([mask] * 3, axis=-1)).save(tmp_path / "images" / f"{stem}.png")
    return tmp_path


def same(found, masks):
    return all(torch.equal(found[stem], torch.from_numpy(mask.astype(np.int64))) for stem, mask in masks.items())


def test_brush_code_by_hand():
    # 2 x 2 pixels, one set: 16 values; runs of 8 zeros, 4 ones and 4 zeros, all with the 3-bit length field.
    bits = f"{16:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "1" + "00" + "111" + "0" * 8 + "1" + "00" + "011" + "1" * 8 + "1" + "00" + "011" + "0" * 8
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert encode_brush(np.array([[False, False], [True, False]])) == expected


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_brush_code_round_trip(share):
    mask = np.random.default_rng(1).random((150, 220)) < share
    assert np.array_equal(decode_brush(encode_brush(mask), 150, 220), mask)


def test_brush_code_with_values_one_by_one():
    # What other writers produce: one run of four single values.
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "0" + "00" + "011" + "0" * 24 + "1" * 8
    bits += "0" * (-len(bits) % 8)
    assert decode_brush([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], 1, 1).tolist() == [[True]]


def test_a_damaged_brush_code_is_refused():
    code = encode_brush(np.ones((4, 4), dtype=bool))
    with pytest.raises(ValueError, match="cut short"):
        decode_brush(code[:8], 4, 4)
    with pytest.raises(ValueError, match="16 pixels, the image 5 x 4"):
        decode_brush(code, 5, 4)


def test_tool_colors_differ_and_leave_black_alone():
    colors = tool_colors(SPACE)
    assert len(set(colors.values())) == 3
    assert (0, 0, 0) not in colors.values()
    with_background = LabelSpace("two", ("Background", "thing"), ((5, 5, 5), (0, 0, 0)))
    assert tool_colors(with_background)["Background"] == (0, 0, 0)


def test_cvat_round_trip(folder, masks):
    write_cvat(folder, masks, SPACE)
    with zipfile.ZipFile(folder / "cvat.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {
            "labelmap.txt", "ImageSets", "SegmentationClass", "JPEGImages",
        }  # fmt: skip
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == list(SIZES)
        assert archive.read("labelmap.txt").decode().splitlines()[1] == "background:0,0,0::"
        archive.extractall(folder / "back")
    assert same(read_masks(folder / "back", SIZES, SPACE), masks)
    assert [label["name"] for label in json.loads((folder / "cvat_labels.json").read_text())] == list(SPACE.classes)


def test_unlabelled_pixels_of_cvat_are_ignored(folder, masks):
    write_cvat(folder, masks, SPACE)
    with zipfile.ZipFile(folder / "cvat.zip") as archive:
        archive.extractall(folder / "back")
    path = folder / "back" / "SegmentationClass" / "000001_a.png"
    picture = np.array(Image.open(path))
    picture[0] = 0
    Image.fromarray(picture).save(path)
    assert read_masks(folder / "back", SIZES, SPACE)["000001_a"][0].tolist() == [255] * 9


def test_label_studio_round_trip(folder, masks):
    write_label_studio(folder, masks, SPACE, "run")
    tasks = json.loads((folder / "label_studio.json").read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=images/000001_a.png"
    for task in tasks:
        task["annotations"] = task.pop("predictions")  # what an annotator submits
    (folder / "export").mkdir()
    (folder / "export" / "project.json").write_text(json.dumps(tasks))
    assert same(read_masks(folder / "export", SIZES, SPACE), masks)
    assert same(read_masks(folder / "export" / "project.json", SIZES, SPACE), masks)
    assert "sky &amp; &lt;sun>" in (folder / "label_studio.xml").read_text()


def test_names_of_any_script_come_back(tmp_path):
    sizes = {file_stem(3, "Straße/夜景.0001"): (6, 9), file_stem(4, "हिन्दी a\u0308"): (5, 4)}
    masks = {stem: np.random.default_rng(0).integers(0, 3, size, dtype=np.uint8) for stem, size in sizes.items()}
    (tmp_path / "images").mkdir()
    for stem, mask in masks.items():
        Image.fromarray(np.stack([mask] * 3, axis=-1)).save(tmp_path / "images" / f"{stem}.png")
    write_cvat(tmp_path, masks, SPACE)
    with zipfile.ZipFile(tmp_path / "cvat.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == list(sizes)
        archive.extractall(tmp_path / "cvat")
    assert same(read_masks(tmp_path / "cvat", sizes, SPACE), masks)
    write_label_studio(tmp_path, masks, SPACE, "run")
    tasks = json.loads((tmp_path / "label_studio.json").read_text(encoding="utf-8"))
    for task in tasks:
        task["annotations"] = task.pop("predictions")
        del task["data"]["stem"]  # found by the image's file name too
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    assert same(read_masks(tmp_path / "project.json", sizes, SPACE), masks)


def test_plain_ids_are_read(tmp_path, masks):
    for stem, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / f"{stem}.png")
    assert same(read_masks(tmp_path, SIZES, SPACE), masks)


def test_bad_masks_are_named(tmp_path, masks):
    with pytest.raises(SegRefineryError, match="no such folder"):
        read_masks(tmp_path / "nowhere", SIZES, SPACE)
    with pytest.raises(SegRefineryError, match="no mask for 2 of 2"):
        read_masks(tmp_path, SIZES, SPACE)
    Image.fromarray(masks["000001_a"]).save(tmp_path / "000001_a.png")
    with pytest.raises(SegRefineryError, match=r"1 of 2 audited images: 000002_b"):
        read_masks(tmp_path, SIZES, SPACE)
    Image.fromarray(masks["000001_a"]).save(tmp_path / "000002_b.png")
    with pytest.raises(SegRefineryError, match="9 x 6, its image 4 x 5 pixels"):
        read_masks(tmp_path, SIZES, SPACE)
    Image.fromarray(masks["000002_b"] + 7).save(tmp_path / "000002_b.png")
    with pytest.raises(SegRefineryError, match="unknown ids 7, 8, 9"):
        read_masks(tmp_path, SIZES, SPACE)
    Image.new("RGB", (4, 5), (1, 2, 3)).save(tmp_path / "000002_b.png")
    with pytest.raises(SegRefineryError, match=r"unknown colours \(1, 2, 3\)"):
        read_masks(tmp_path, SIZES, SPACE)
    (tmp_path / "000002_b.png").write_bytes(b"not a picture")
    with pytest.raises(SegRefineryError, match="not a PNG"):
        read_masks(tmp_path, SIZES, SPACE)
    (tmp_path / "labelmap.txt").write_text("unicorn:1,2,3::\n")
    with pytest.raises(SegRefineryError, match="unknown label 'unicorn'"):
        read_masks(tmp_path, SIZES, SPACE)


def test_bad_label_studio_exports_are_named(tmp_path):
    path = tmp_path / "project.json"
    path.write_text("{")
    with pytest.raises(SegRefineryError, match="not a Label Studio JSON export"):
        read_masks(tmp_path, SIZES, SPACE)
    region = {
        "type": "brushlabels", "original_height": 6, "original_width": 9,
        "value": {"format": "rle", "rle": encode_brush(np.ones((6, 9), dtype=bool)), "brushlabels": ["unicorn"]},
    }  # fmt: skip
    task = {"data": {"image": "x/000001_a.png"}, "annotations": [{"result": [region]}]}
    path.write_text(json.dumps([task]))
    with pytest.raises(SegRefineryError, match="unknown label 'unicorn'"):
        read_masks(tmp_path, SIZES, SPACE)
    region["original_width"] = 10
    path.write_text(json.dumps([task]))
    with pytest.raises(SegRefineryError, match="labelled at 10 x 6, it is 9 x 6"):
        read_masks(tmp_path, SIZES, SPACE)


def test_a_prediction_as_pictures(tmp_path):
    probs = torch.tensor([[[0.8, 0.1]], [[0.1, 0.2]], [[0.1, 0.7]]])
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    space = LabelSpace("three", SPACE.classes, ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
    confidence, label = probs.max(dim=0)
    paths = write_prediction(tmp_path, 7, "odd/näme with: everything?*.jpg", image, label, confidence, space)
    assert all(path.exists() and path.name.startswith("000007_") for path in paths.values())
    label = Image.open(paths["label"])
    assert np.array(label).tolist() == [[0, 2]]
    assert np.array(label.convert("RGB"))[0, 1].tolist() == [0, 0, 200]
    assert np.array(Image.open(paths["confidence"])).tolist() == [[204, 178]]
    assert np.array(Image.open(paths["overlay"]))[0, 0].tolist() == [150, 50, 50]
