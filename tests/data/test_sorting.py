"""What counts as an image."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from PIL import Image

from data.pictures import index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.check import check_datasets
from segrefinery.data.datasets import notes_of, open_dataset

MASK = np.arange(96 * 64, dtype=np.int64).reshape(64, 96) // 2048


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def names(path):
    dataset = open_dataset(str(path))
    return [dataset.name(index) for index in range(len(dataset))]


def mask(path):
    return index_png(path, MASK.astype(np.uint8))


@pytest.mark.parametrize("form", ["{}_mask.png", "labels/{}.png", "SegmentationClass/{}.png", "out/{}.png", "{}.png"])
def test_masks_of_an_export_are_no_images(tmp_path, form):
    for name in "ab":
        photo(tmp_path / f"{name}.jpg")
        mask(tmp_path / form.format(name))
    assert names(tmp_path) == ["a", "b"]
    (note,) = notes_of(open_dataset(str(tmp_path)))
    assert note.startswith("2 files, first ")
    assert "taken for masks and left out" in note
    assert len(open_dataset(f"{tmp_path}/*.jpg")) == 2
    assert len(open_dataset(f"{tmp_path}/**/*.png")) == 2


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("{}_img", ("{}_lbl",)),
        ("{}_leftImg8bit", ("{}_gtFine_labelIds", "{}_gtFine_color", "{}_gtFine_instanceIds")),
        ("rgb_{}", ("rgb_{}_seg",)),
    ],
)
def test_masks_that_take_the_place_of_a_word_are_no_images(tmp_path, image, masks):
    for name in ("a_000", "b_000"):
        photo(tmp_path / f"{image.format(name)}.png")
        for form in masks:
            mask(tmp_path / f"{form.format(name)}.png")
    assert names(tmp_path) == [image.format(name) for name in ("a_000", "b_000")]


def test_photographs_are_no_masks_for_their_names_alone(tmp_path):
    pictures = ("road_1", "road_2", "road_label", "road_gt_seg")
    for name in pictures:
        photo(tmp_path / f"{name}.png")
    assert sorted(names(tmp_path)) == sorted(pictures)


def test_a_folder_whose_own_name_is_labels_holds_images(tmp_path):
    photo(tmp_path / "labels/a.jpg")
    photo(tmp_path / "labels/gt/b.jpg")
    assert names(tmp_path / "labels/gt") == ["b"]
    assert len(names(tmp_path)) == 2


def test_what_we_wrote_ourselves_is_no_image(tmp_path):
    photo(tmp_path / "a.jpg")
    for kind in ("", ".overlay", ".confidence"):
        photo(tmp_path / f"out/000000_a{kind}.png")
        photo(tmp_path / f"run/stages/adapt/labels/x{kind}.png")
    photo(tmp_path / "listed/000000_a.png")
    (tmp_path / "listed/files.csv").write_text("number,name,file\n")
    photo(tmp_path / "second/pictures/hist.png")
    for name in ("recipe.yaml", "environment.json"):
        (tmp_path / "second" / name).write_text("{}")
    for kind in ("labels", "weights"):
        photo(tmp_path / f"named/{kind}/a.png")
    (tmp_path / "named/made.json").write_text("{}")
    assert names(tmp_path) == ["a"]
    assert notes_of(open_dataset(str(tmp_path)))[0].startswith("10 files, first listed/000000_a.png, are written by")


def test_formats_that_are_not_read_are_counted_and_check_says_so(tmp_path):
    for name in "ab":
        photo(tmp_path / f"t/{name}.JPG")
    for name in ("c.exr", "d.EXR", "e.gif"):
        (tmp_path / "t" / name).write_bytes(b"x")
    found = check_datasets(open_dataset("scenes:day,count=2,size=32x48"), open_dataset(str(tmp_path / "t")))
    assert "formats that are not read are left out: 2 .exr, 1 .gif" in " ".join(map(str, found.problems))


def described(root, text):
    (root / "dataset.yaml").write_text(f"{text}\nclasses: [road, sky, box]\n")
    return open_dataset(f"folder:{root}")


def test_suffixes_of_any_spelling_belong_together(tmp_path):
    for name in ("a.jpg", "b.JPG", "c.jpeg", "d.png"):
        photo(tmp_path / "images" / name)
    for name in ("a.png", "b.PNG", "c.png", "d.png"):
        mask(tmp_path / "masks" / name)
    dataset = described(tmp_path, "images: images/{name}.jpg\nmasks: masks/{name}.png")
    assert [dataset.name(i) for i in range(len(dataset))] == ["a", "b", "c"]
    assert dataset.label(1).tolist() == MASK.tolist()
    assert notes_of(dataset) == (f"1 masks have no image, first {tmp_path}/masks/d.png",)


def test_the_masks_of_a_pattern_are_never_its_images(tmp_path):
    photo(tmp_path / "a.png")
    mask(tmp_path / "a_mask.png")
    dataset = described(tmp_path, 'images: "{name}.png"\nmasks: "{name}_mask.png"')
    assert [dataset.name(i) for i in range(len(dataset))] == ["a"]


def test_names_are_paired_by_what_they_look_like(tmp_path):
    photo(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'straße-é')}.png")
    mask(tmp_path / "masks" / f"{unicodedata.normalize('NFC', 'straße-é')}.png")
    (tmp_path / "all.txt").write_text(unicodedata.normalize("NFC", "straße-é"), "utf-8")
    text = "images: images/{name}.png\nmasks: masks/{name}.png\nsplits: {all: {file: all.txt}}"
    assert described(tmp_path, text).label(0).tolist() == MASK.tolist()
    assert len(open_dataset(f"folder:{tmp_path}@all")) == 1


def test_a_directory_of_nothing_but_what_we_wrote_says_so(tmp_path):
    for kind in ("", ".weight"):
        picture(tmp_path / f"000000_a{kind}.png")
    with pytest.raises(SegRefineryError, match=r"holds no image \(.*2 files, .* are written by segrefinery"):
        open_dataset(str(tmp_path))


def test_masks_alone_are_said_or_refused(tmp_path):
    for name in "abc":
        mask(tmp_path / f"my/labels/{name}.png")
    with pytest.raises(
        SegRefineryError, match=r"labels: path: the pictures looked at \(3 of 3\) have 32 colours or fewer"
    ):
        open_dataset(str(tmp_path / "my/labels"))
    assert len(open_dataset(f"{tmp_path}/my/labels/*.png")) == 3
    (tmp_path / "my/labels").rename(tmp_path / "my/camera")
    (note,) = notes_of(open_dataset(str(tmp_path / "my/camera")))
    assert "as masks have" in note
    photo(tmp_path / "my/camera/a.png")
    assert notes_of(open_dataset(str(tmp_path / "my/camera"))) == ()


def test_pictures_of_raw_formats_are_counted(tmp_path):
    photo(tmp_path / "a.jpg")
    (tmp_path / "b.CR2").write_bytes(b"raw")
    assert "1 .cr2" in notes_of(open_dataset(str(tmp_path)))[0]


def test_pictures_that_would_be_dropped_in_silence_are_read_or_said(tmp_path):
    for name in ("a.jpg", "b.jfif", "c.JPE"):
        photo(tmp_path / "t" / name)
    photo(tmp_path / "t/d.png").rename(tmp_path / "t/d")
    (tmp_path / "t/README").write_text("no picture")
    assert names(tmp_path / "t") == ["a", "b", "c"]
    said = ("d is without a suffix and left out, though a picture by content; rename",)
    assert notes_of(open_dataset(str(tmp_path / "t"))) == said
    (tmp_path / "t/e.heic").write_bytes(b"x")
    (note,) = notes_of(open_dataset(f"{tmp_path}/t/*"))
    assert "left out: 1 .heic, 2 without a suffix; rename or convert" in note
    assert notes_of(open_dataset(f"{tmp_path}/t/*.j*")) == ()


@pytest.mark.parametrize("folder", ["@eaDir/a.jpg", "$RECYCLE.BIN", "#recycle", "__MACOSX"])
def test_what_systems_keep_beside_data_is_no_image(tmp_path, folder):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / folder / "thumb.jpg")
    assert names(tmp_path) == ["a"]
