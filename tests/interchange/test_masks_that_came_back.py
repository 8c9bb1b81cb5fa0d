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


@pytest.mark.parametrize("name", ["task-1-annotation-2-by-1-tag-crack-0.png", "annotations.xml"])
def test_forms_that_do_not_say_their_image_are_refused_by_name(tmp_path, name):
    Image.fromarray(BOX).save(tmp_path / f"{STEM}.png")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SegRefineryError, match=name):
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
