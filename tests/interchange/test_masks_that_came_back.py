"""Masks in every form in which annotators send them; what cannot be read is refused by name."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.annotations.brush import encode_brush
from segrefinery.interchange.annotation import read_masks
from segrefinery.labels import LabelSpace
from segrefinery.verbs.audit import remarks

SPACE = LabelSpace("cracks", ("background", "crack"), ((0, 0, 0), (255, 255, 255)))
STEM, SIZE = "000001_a", (10, 20)
BOX = np.zeros(SIZE, dtype=np.uint8)
BOX[2:6, 5:15] = 1
TRUTH = torch.from_numpy(BOX).long()


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(BOX),
        Image.fromarray(BOX * 255),
        Image.fromarray(BOX.astype(bool)),
        Image.fromarray(BOX.astype(np.uint16)),
        Image.merge("LA", [Image.fromarray(BOX), Image.new("L", SIZE[::-1], 255)]),
        Image.merge("RGB", [Image.fromarray(BOX)] * 3),
        Image.merge("RGB", [Image.fromarray(BOX * 255)] * 3),
    ],
    ids=["ids", "0 and 255", "1 bit", "16 bits", "grey with alpha", "grey RGB", "black and white RGB"],
)
def test_every_encoding_of_a_data_set_is_read(tmp_path, picture):
    picture.save(tmp_path / f"{STEM}.png")
    assert torch.equal(read_masks(tmp_path, {STEM: SIZE}, SPACE)[STEM], TRUTH)


@pytest.mark.parametrize("color", [(0, 0, 0), (1, 1, 1), (255, 255, 255)])
def test_what_is_transparent_has_no_label(tmp_path, color):
    erased = np.zeros(SIZE, dtype=bool)
    erased[:, 12:] = True
    rgb = np.where(erased[..., None], np.array(color), BOX[..., None].repeat(3, axis=-1) * 255)
    alpha = np.where(erased, 0, 255)[..., None]
    Image.fromarray(np.concatenate([rgb, alpha], axis=-1).astype(np.uint8)).save(tmp_path / f"{STEM}.png")
    mask = read_masks(tmp_path, {STEM: SIZE}, SPACE)[STEM]
    assert torch.equal(mask, TRUTH.masked_fill(torch.from_numpy(erased), 255))


def test_what_is_transparent_has_no_label_where_black_is_background(tmp_path):
    space = LabelSpace("yard", ("background", "road"), ((0, 0, 0), (128, 64, 128)))
    alpha = np.full(SIZE, 255, dtype=np.uint8)
    alpha[:, 12:] = 0
    color = np.array([(0, 0, 0), (128, 64, 128)], dtype=np.uint8)[BOX]
    Image.fromarray(np.dstack([color, alpha])).save(tmp_path / f"{STEM}.png")
    mask = read_masks(tmp_path, {STEM: SIZE}, space)[STEM]
    assert torch.equal(mask, TRUTH.masked_fill(torch.from_numpy(alpha == 0), 255))


SHAPE = {"original_height": 10, "original_width": 20, "image_rotation": 0}
BRUSH = {"format": "rle", "rle": encode_brush(BOX > 0), "brushlabels": ["crack"]}
POLYGON = {"points": [[25, 20], [75, 20], [75, 60], [25, 60]], "polygonlabels": ["crack"]}
RECTANGLE = {"x": 25, "y": 20, "width": 50, "height": 40, "rotation": 0, "rectanglelabels": ["crack"]}
KINDS = {"brushlabels": BRUSH, "polygonlabels": POLYGON, "rectanglelabels": RECTANGLE}


def exported(tmp_path, *tasks):
    path = tmp_path / "project.json"
    path.write_text(json.dumps(list(tasks)))
    return read_masks(path, {STEM: SIZE}, SPACE)[STEM]


def annotation(*kinds, **extra):
    return {"result": [{"type": kind, "value": KINDS[kind], **SHAPE} for kind in kinds], **extra}


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), list(KINDS)])
def test_label_studio_regions_of_every_kind_where_only_the_objects_are_painted(tmp_path, kinds):
    task = {"data": {"image": f"/data/upload/3/0a1b2c3d-{STEM}.png"}, "annotations": [annotation(*kinds)]}
    assert torch.equal(exported(tmp_path, task), TRUTH)


def test_the_last_annotation_that_was_not_cancelled_counts(tmp_path):
    kinds = [annotation("rectanglelabels"), {"result": [], "was_cancelled": True}]
    assert torch.equal(exported(tmp_path, {"data": {"stem": STEM}, "annotations": kinds}), TRUTH)


@pytest.mark.parametrize("kind", KINDS)
def test_label_studio_json_min(tmp_path, kind):
    assert torch.equal(
        exported(tmp_path, {"image": f"/x/{STEM}.png", "id": 1, "classes": [KINDS[kind] | SHAPE]}), TRUTH
    )


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"type": "ellipselabels", "value": {"ellipselabels": ["crack"]}}, "a region is ellipselabels"),
        ({"type": "rectanglelabels", "value": RECTANGLE | {"rotation": 20}}, "rotated"),
        ({"type": "rectanglelabels", "value": RECTANGLE | {"x": None}}, "cannot be read"),
        ({"type": "brushlabels", "value": BRUSH | {"rle": BRUSH["rle"][:9]}}, "cut short"),
        ({"type": "brushlabels", "value": BRUSH | {"brushlabels": ["crack", "background"]}}, "give it one"),
    ],
)
def test_a_region_that_cannot_be_read_is_refused(tmp_path, region, message):
    with pytest.raises(SegRefineryError, match=message):
        exported(tmp_path, {"data": {"stem": STEM}, "annotations": [{"result": [region | SHAPE]}]})


def test_names_of_label_studios_png_export_need_its_json(tmp_path):
    name = "task-1-annotation-2-by-1-tag-crack-0.png"
    Image.fromarray(BOX).save(tmp_path / name)
    with pytest.raises(SegRefineryError, match=f"{name}: .*export as JSON too"):
        read_masks(tmp_path, {STEM: SIZE}, SPACE)
    data = {"image": f"/data/upload/3/0a1b2c3d-{STEM}.png"}
    task = {"id": 1, "data": data, "annotations": [annotation("brushlabels")]}
    (tmp_path / "project.json").write_text(json.dumps([task]))
    assert torch.equal(read_masks(tmp_path, {STEM: SIZE}, SPACE)[STEM], TRUTH)


XML = (
    "<annotations><meta><task><labels><label><name>crack</name><color>#ff0000</color></label></labels></task></meta>"
    '<image id="0" name="audit/{stem}.png" width="20" height="10">{shape}</image></annotations>'
)
SHAPES = {
    "polygon": '<polygon label="crack" z_order="0" points="5,2;15,2;15,6;5,6"/>',
    "box": '<box label="crack" xtl="5" ytl="2" xbr="15" ybr="6"/>',
    "mask": '<mask label="crack" left="5" top="2" width="10" height="4" rle="0, 40"/>',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_cvat_for_images_is_painted(tmp_path, shape):
    pytest.importorskip("pycocotools")
    (tmp_path / "annotations.xml").write_text(XML.format(stem=STEM, shape=SHAPES[shape]))
    for place in (tmp_path, tmp_path / "annotations.xml"):
        assert torch.equal(read_masks(place, {STEM: SIZE}, SPACE)[STEM], TRUTH)
    (tmp_path / "annotations.xml").write_text(XML.format(stem=STEM, shape=SHAPES[shape].replace("crack", "dirt")))
    with pytest.raises(SegRefineryError, match="unknown label 'dirt'"):
        read_masks(tmp_path, {STEM: SIZE}, SPACE)
    (tmp_path / "annotations.xml").write_text(XML.format(stem="other", shape=SHAPES[shape]))
    with pytest.raises(SegRefineryError, match=f"no mask for 1 of 1 audited images: {STEM}"):
        read_masks(tmp_path, {STEM: SIZE}, SPACE)


def test_coco_as_cvat_exports_it_is_painted(tmp_path):
    pytest.importorskip("pycocotools")
    content = {
        "images": [{"id": 1, "file_name": f"{STEM}.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "crack"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 2, 15, 2, 15, 6, 5, 6]]}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_default.json").write_text(json.dumps(content))
    assert torch.equal(read_masks(tmp_path, {STEM: SIZE}, SPACE)[STEM], TRUTH)
    content["images"][0]["width"] = 40
    (tmp_path / "annotations/instances_default.json").write_text(json.dumps(content))
    with pytest.raises(SegRefineryError, match="was annotated at 40 x 10"):
        read_masks(tmp_path, {STEM: SIZE}, SPACE)


def test_a_class_that_vanished_is_an_error_and_what_is_missing_is_said():
    names = ("background", "crack", "dirt")
    lost, start = torch.where(TRUTH == 1, 255, TRUTH), {"a": TRUTH}
    with pytest.raises(SegRefineryError, match="only background"):
        remarks("masks", {"a": lost}, start, names)
    lost[0, 0] = 2
    with pytest.raises(SegRefineryError, match="'crack' is in no mask"):
        remarks("masks", {"a": lost}, start, names)
    partly = TRUTH.clone()
    partly[0] = 255
    told = remarks("masks", {"a": partly}, start, names)
    assert told == ["10.0 % of the pixels are unlabelled and do not count", "no mask has a pixel of dirt"]
