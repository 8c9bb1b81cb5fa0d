"""Who names a folder of images and masks without a description is told what to write, and it works as told."""

import re

import numpy as np
import pytest
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.described import how_to_describe

IMAGE = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
LABEL = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 12, 0).repeat(4, 1)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("images", "masks", "told"),
    [
        ("images/{}.jpg", "masks/{}.png", ("images/{name}.jpg", "masks/{name}.png")),
        ("{}.png", "{}_mask.png", ("'{name}.png'", "'{name}_mask.png'")),
        ("day: 1/{}.png", "labels/{}.png", ("'day: 1/{name}.png'", "labels/{name}.png")),
        ("train/img/town {}.png", "train/labels/town {}.png", ("train/img/{name}.png", "train/labels/{name}.png")),
        (
            "left/train/{}_left.png",
            "gt/train/{}_gt_labelIds.png",
            ("left/{name}_left.png", "gt/{name}_gt_labelIds.png"),
        ),
    ],
)
def test_the_patterns_are_told_and_work(tmp_path, images, masks, told):
    for number in (1, 2, 10):
        save(tmp_path / images.format(number), IMAGE)
        save(tmp_path / masks.format(number), LABEL)
    text = how_to_describe(tmp_path)
    assert f"images: {told[0]}, masks: {told[1]} and classes" in text
    assert "(these masks hold 0, 1, 2)" in text
    lines = re.search(r"lines (images: .+), (masks: .+) and classes", text)
    assert lines is not None
    (tmp_path / "dataset.yaml").write_text("\n".join([*lines.groups(), "classes: {0: sky, 1: road, 2: car}"]))
    dataset = open_dataset(f"folder:{tmp_path}")
    assert len(dataset) == 3
    assert sorted(dataset.label(0).unique().tolist()) == [0, 1, 2, 255]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png"),  # CamVid
        ("train/{}.png", "trainannot/{}.png"),
        ("train/{}.jpg", "train_masks/{}_mask.gif"),  # Carvana
        ("2_Ortho_RGB/{}_RGB.tif", "5_Labels/{}_label.tif"),  # Potsdam
        ("train/{}_sat.jpg", "train/{}_mask.png"),  # DeepGlobe
    ],
)
def test_masks_are_known_by_their_few_colours(tmp_path, images, masks):
    pytest.importorskip("tifffile")
    for number in (1, 2, 10):
        save(tmp_path / images.format(number), IMAGE)
        save(tmp_path / masks.format(number), np.array([[0, 0, 255], [9, 8, 7]], np.uint8)[LABEL % 2])
    text = how_to_describe(tmp_path)
    assert f"images: {images.format('{name}')}, masks: {masks.format('{name}')} and " in text


def test_masks_of_jpeg_are_to_be_saved_anew(tmp_path):
    save(tmp_path / "images/a.jpg", IMAGE)
    save(tmp_path / "masks/a.jpg", LABEL)
    text = how_to_describe(tmp_path)
    assert text.startswith("save the masks as PNG, for JPEG and WebP change their ids; then write ")
    assert "masks: masks/{name}.png and classes: {ID: NAME, ...}, a name for each id" in text


def test_masks_of_another_split_are_not_paired(tmp_path):
    for split in ("train", "val"):
        for name in "123":
            save(tmp_path / split / f"images/{name}.png", IMAGE)
            save(tmp_path / split / f"masks/{name}.png", LABEL)
    text = how_to_describe(tmp_path)
    assert "images: train/images/{name}.png, masks: train/masks/{name}.png and" in text
    assert "(so 3 of 6 pictures have a mask" in text


def test_masks_of_instances_and_colours_are_the_last_choice(tmp_path):
    save(tmp_path / "images/1.png", IMAGE)
    for kind in ("color", "instance", "semantic"):
        save(tmp_path / f"masks/1_{kind}.png", LABEL)
    assert "masks: masks/{name}_semantic.png and" in how_to_describe(tmp_path)


def test_both_of_two_ids_are_classes(tmp_path):
    save(tmp_path / "images/1.png", IMAGE)
    save(tmp_path / "masks/1.png", (LABEL > 0).astype(np.uint8) * 255)
    assert "(these masks hold 0, 255)" in how_to_describe(tmp_path)


def test_masks_of_colours(tmp_path):
    save(tmp_path / "images" / "a.png", IMAGE)
    save(tmp_path / "masks" / "a.png", np.array([[0, 0, 255], [9, 8, 7]], np.uint8)[LABEL % 2])
    assert "(these masks hold [0, 0, 255], [9, 8, 7])" in how_to_describe(tmp_path)


@pytest.mark.parametrize("bands", [1, 3])
def test_masks_with_alpha(tmp_path, bands):
    save(tmp_path / "images" / "a.png", IMAGE)
    ids = np.stack([LABEL % 3] * bands, axis=-1)
    for alpha, hidden in ((255, ""), (0, "transparent: ignore (or keep")):
        stored = np.concatenate([ids, np.where(LABEL % 3 == 2, alpha, 255)[..., None]], axis=-1)
        save(tmp_path / "masks" / "a.png", stored.astype(np.uint8))
        told = how_to_describe(tmp_path)
        assert hidden in told
        assert f"a name for each id (these masks hold {'0, 1' if hidden else '0, 1, 2'})" in told


def test_masks_of_which_some_are_grey_and_some_coloured(tmp_path):
    for name, mask in {"a": LABEL % 2, "b": np.array([[0, 0, 255], [9, 8, 7]], np.uint8)[LABEL % 2]}.items():
        save(tmp_path / "images" / f"{name}.png", IMAGE)
        save(tmp_path / "masks" / f"{name}.png", mask.astype(np.uint8))
    assert "(these masks hold [0, 0, 0], [0, 0, 255], [1, 1, 1], [9, 8, 7])" in how_to_describe(tmp_path)


def test_nothing_is_told_of_images_alone(tmp_path):
    save(tmp_path / "images" / "a.png", IMAGE)
    assert how_to_describe(tmp_path) == ""
    assert how_to_describe(tmp_path / "nowhere") == ""


def test_the_error_tells_it(tmp_path):
    save(tmp_path / "images" / "a.png", IMAGE)
    save(tmp_path / "masks" / "a.png", LABEL)
    line = "dataset.yaml with the lines images: images/{name}.png, masks: masks/{name}.png and classes: {ID: NAME, ...}"
    with pytest.raises(SegRefineryError, match="does not exist; write ") as error:
        open_dataset(f"folder:{tmp_path}")
    assert line in str(error.value)
    (tmp_path / "dataset.yaml").write_text("classes: [sky, road, car]\n")
    with pytest.raises(SegRefineryError, match="images: Field required; write ") as error:
        open_dataset(f"folder:{tmp_path}")
    assert line in str(error.value)


def test_a_folder_of_images_alone_is_told_to_be_named_so(tmp_path):
    save(tmp_path / "images" / "a.png", IMAGE)
    with pytest.raises(
        SegRefineryError, match=r"does not exist; write it \(docs/data.md\), or name the images as "
    ) as error:
        open_dataset(f"folder:{tmp_path}")
    assert f"as {tmp_path}, without folder:, if they have no masks" in str(error.value)
    with pytest.raises(SegRefineryError, match="does not exist; check the path"):
        open_dataset(f"folder:{tmp_path}/nowhere")
