from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures import SIZE, color_png, index_png, palette_png, picture, raw_png
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align
from segrefinery.data.check import check_datasets
from segrefinery.data.datasets import Remapped, SegmentationDataset, UnlabeledView, notes_of, open_dataset
from segrefinery.data.scan import fingerprint
from segrefinery.labels import SPACES

NAMES = ("with space", 'it\'s "quoted"', "<script>", "straße-道路", "plain")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "data"


def ids(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.resize(np.array(values, dtype=dtype), SIZE)


def test_gta5_masks_are_palette_label_ids(tmp_path):
    picture(tmp_path / "images/00001.png")
    palette_png(tmp_path / "labels/00001.png", ids(7, 26, 0, 34, 33, 21))
    dataset = open_dataset(f"gta5:{tmp_path}")
    assert isinstance(dataset, SegmentationDataset)
    assert dataset.name(0) == "00001"
    assert dataset.space == SPACES["cityscapes"]
    assert dataset.label(0)[0].tolist() == [0, 13, 255, 255, 18, 8]


def test_synthia_masks_are_the_first_16_bit_channel(tmp_path):
    picture(tmp_path / "RGB/0000000.png")
    classes = ids(3, 10, 22, 16, 17, 0, dtype=np.uint16)
    raw_png(tmp_path / "GT/LABELS/0000000.png", np.stack([classes, classes + 500, 0 * classes], axis=-1), 16)
    dataset = open_dataset(f"synthia:{tmp_path}")
    space = SPACES["synthia16"]
    assert dataset.space == space
    assert dataset.label(0)[0].tolist() == [
        space.id_of("road"),
        space.id_of("person"),
        255,
        255,
        space.id_of("rider"),
        255,
    ]


@pytest.mark.parametrize(("kind", "stored"), [("labelIds", (7, 26, 0)), ("labelTrainIds", (0, 13, 255))])
def test_cityscapes_by_either_kind_of_mask(tmp_path, kind, stored):
    picture(tmp_path / "leftImg8bit/val/ulm/ulm_000_leftImg8bit.png")
    index_png(tmp_path / f"gtFine/val/ulm/ulm_000_gtFine_{kind}.png", ids(*stored))
    dataset = open_dataset(f"cityscapes:{tmp_path}@val")
    assert dataset.name(0) == "val/ulm/ulm_000"
    assert dataset.label(0)[0].tolist() == [0, 13, 255] * 2
    with pytest.raises(SegRefineryError, match="there is no split 'train'; choose one of: val"):
        open_dataset(f"cityscapes:{tmp_path}")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.full((2, 2), 77, np.uint8), r"ids that no class has: 77; .*by a dataset\.yaml of your own.*folder:PATH"),
        (
            np.array([[[7, 0]]], np.uint8),
            r"100 % of its pixels are transparent.*by a dataset\.yaml of your own.*folder:",
        ),
    ],
)
def test_what_a_published_layout_does_not_say_goes_into_a_file_of_your_own(tmp_path, mask, said):
    picture(tmp_path / "leftImg8bit/val/ulm/ulm_000_leftImg8bit.png")
    path = tmp_path / "gtFine/val/ulm/ulm_000_gtFine_labelIds.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(mask).save(path)
    with pytest.raises(SegRefineryError, match=said):
        open_dataset(f"cityscapes:{tmp_path}@val").label(0)


def test_acdc_by_split_and_condition(tmp_path):
    for condition in ("fog", "night"):
        for split in ("train", "test"):
            picture(tmp_path / f"rgb_anon/{condition}/{split}/GP1/GP1_1_rgb_anon.png")
        index_png(tmp_path / f"gt/{condition}/train/GP1/GP1_1_gt_labelTrainIds.png", ids(0, 255))
    assert [open_dataset(f"acdc:{tmp_path}").name(i) for i in range(2)] == [
        "fog/train/GP1/GP1_1",
        "night/train/GP1/GP1_1",
    ]
    night = open_dataset(f"acdc:{tmp_path}@train/night")
    assert len(night) == 1
    assert night.label(0).unique().tolist() == [0, 255]
    assert not open_dataset(f"acdc:{tmp_path}@test").has_labels
    with pytest.raises(SegRefineryError, match="choose one of: test, train"):
        open_dataset(f"acdc:{tmp_path}@val")


def test_dark_zurich_default_is_the_unlabelled_night(tmp_path):
    picture(tmp_path / "rgb_anon/train/night/G1/G1_frame_1_rgb_anon.png")
    picture(tmp_path / "rgb_anon/train/day/G2/G2_frame_1_rgb_anon.png")
    picture(tmp_path / "rgb_anon/val/night/G3/G3_frame_1_rgb_anon.png")
    index_png(tmp_path / "gt/val/night/G3/G3_frame_1_gt_labelTrainIds.png", ids(10))
    night = open_dataset(f"dark_zurich:{tmp_path}")
    assert (len(night), night.has_labels) == (1, False)
    assert open_dataset(f"dark_zurich:{tmp_path}@val").label(0).unique().tolist() == [10]
    with pytest.raises(SegRefineryError, match="choose one of: train/day, train/night"):
        open_dataset(f"dark_zurich:{tmp_path}@train/snow")


def test_a_missing_mask_is_named(tmp_path):
    picture(tmp_path / "images/1.png")
    picture(tmp_path / "images/2.png")
    palette_png(tmp_path / "labels/1.png", ids(7))
    dataset = open_dataset(f"gta5:{tmp_path}")
    with pytest.raises(SegRefineryError, match=r"labels/2.png: masks: 1 of 2 images have no mask"):
        Remapped(dataset, SPACES["cityscapes"])
    with pytest.raises(SegRefineryError, match=r"labels/2.png: masks: 2 of 4 images have no mask"):
        Remapped(open_dataset(f"gta5:{tmp_path} + gta5:{tmp_path}"), SPACES["cityscapes"])


@pytest.mark.parametrize("masks", ["some", "none", "no folder"])
def test_a_target_needs_no_masks(tmp_path, masks):
    source = folder(tmp_path / "source", "classes: [road, car, person]\n", (0, 1, 2))
    target = folder(tmp_path / "target", "classes: [road, car, person]\n", (0, 1, 2))
    for file in sorted((tmp_path / "target/masks").rglob("*.png"))[masks == "some" :]:
        file.unlink()
    if masks == "no folder":
        shutil.rmtree(tmp_path / "target/masks")
    opened = open_dataset(target)
    told = align(open_dataset(source), opened)
    assert len(told.target) == len(opened) > 1
    kept = 1 if masks == "some" else 0
    assert f"only {kept} of {len(opened)} images have a mask; masks of a target are not read" in notes_of(told.target)
    assert fingerprint(told.target)
    report = check_datasets(open_dataset(source), opened)
    assert report.ok
    with pytest.raises(SegRefineryError, match="images have no mask"):
        align(opened, open_dataset(source))
    found = check_datasets(opened, open_dataset(source))
    assert any("images have no mask" in str(problem) for problem in found.problems)


def folder(root: Path, text: str, stored: tuple[int, ...] = (0, 1, 2, 255)) -> str:
    for name in NAMES:
        picture(root / "images" / f"{name}.png")
        index_png(root / "masks" / f"{name}.png", ids(*stored))
    (root / "dataset.yaml").write_text("images: images/{name}.png\nmasks: masks/{name}.png\n" + text, "utf-8")
    return f"folder:{root}"


def test_folder_with_odd_names_merge_and_ignore(tmp_path):
    reference = folder(tmp_path, "classes: {0: Road, 1: lane, 2: Car, 5: null}\nmerge: {lane: Road}\nignore: [7]")
    dataset = open_dataset(reference)
    assert sorted(dataset.name(i) for i in range(len(dataset))) == sorted(NAMES)
    assert dataset.space is not None
    assert dataset.space.classes == ("Road", "Car")
    assert dataset.image(0).shape == (3, *SIZE)
    assert dataset.label(0)[0, :4].tolist() == [0, 0, 1, 255]


def test_folder_splits_by_column_and_by_list(tmp_path, monkeypatch):
    text = (
        "root: ${PLACE}\nclasses: [a, b, c]\nsplits:\n"
        "  odd: {file: s.csv, column: use, value: [x, 3]}\n"
        "  names: {file: names.txt}\n  bad: {file: s.csv, column: nope}\n"
    )
    reference = folder(tmp_path, text)
    with pytest.raises(SegRefineryError, match="environment variable PLACE is not set"):
        open_dataset(reference)
    monkeypatch.setenv("PLACE", str(tmp_path))
    (tmp_path / "s.csv").write_text("frame,use\n<script>,x\nplain,y\nwith space,3\n", "utf-8")
    (tmp_path / "names.txt").write_text("straße-道路\n\n", "utf-8")
    odd = open_dataset(f"{reference}@odd")
    assert [odd.name(i) for i in range(len(odd))] == ["<script>", "with space"]
    assert open_dataset(f"{reference}@names").name(0) == "straße-道路"
    with pytest.raises(SegRefineryError, match="no column 'nope'; choose one of: frame, use"):
        open_dataset(f"{reference}@bad")
    with pytest.raises(SegRefineryError, match="no split 'even'; choose one of: odd, names, bad"):
        open_dataset(f"{reference}@even")
    (tmp_path / "names.txt").write_text("ghost", "utf-8")
    with pytest.raises(SegRefineryError, match="1 of its 1 names fit no image, first 'ghost'"):
        open_dataset(f"{reference}@names")


def test_a_split_that_names_no_image_says_so(tmp_path):
    reference = folder(
        tmp_path,
        "classes: [a, b, c]\nsplits:\n  train: {file: train.txt}\n  x: {file: s.csv, column: use, value: [x, 3]}\n"
        "  open: {file: s.csv, column: use}\n",
    )
    for text in ("", "\ufeff \n\n"):
        (tmp_path / "train.txt").write_text(text, "utf-8")
        with pytest.raises(
            SegRefineryError, match=r"train.txt: splits.train: the file is empty: it names no image; list"
        ):
            open_dataset(f"{reference}@train")
    (tmp_path / "s.csv").write_text("")
    with pytest.raises(SegRefineryError, match=r"s.csv: splits.x: the file is empty: it names no image"):
        open_dataset(f"{reference}@x")
    (tmp_path / "s.csv").write_text("frame,use\nplain,y\n")
    with pytest.raises(
        SegRefineryError, match=r"splits.x: names no image: no line has use = 3 or x; correct the value"
    ):
        open_dataset(f"{reference}@x")
    with pytest.raises(SegRefineryError, match=r"splits.open: names no image: no value of 'use' is given"):
        open_dataset(f"{reference}@open")


def test_binary_masks_of_0_and_255(tmp_path):
    dataset = open_dataset(folder(tmp_path, "classes: {0: background, 255: road}", (0, 255)))
    assert dataset.label(0)[0].tolist() == [0, 1] * 3


def test_folder_with_a_labelmap(tmp_path):
    picture(tmp_path / "img/a.jpg")
    rgb = np.zeros((*SIZE, 3))
    rgb[0, 0], rgb[0, 1], rgb[0, 2] = (128, 64, 128), (224, 224, 192), (1, 1, 1)
    color_png(tmp_path / "seg/a.png", rgb)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\n")
    yaml = "images: img/{name}.jpg\nmasks: seg/{name}.png\nlabelmap: labelmap.txt\nignore: [[1, 1, 1]]\n"
    (tmp_path / "mine.yaml").write_text(yaml)
    dataset = open_dataset(f"folder:{tmp_path / 'mine.yaml'}")
    assert dataset.space is not None
    assert (dataset.space.name, dataset.space.classes) == ("mine", ("background", "road"))
    assert dataset.space.colors == ((0, 0, 0), (128, 64, 128))
    assert dataset.label(0)[0, :4].tolist() == [1, 255, 255, 0]
    (tmp_path / "labelmap.txt").write_text("background:0,0\n")
    with pytest.raises(SegRefineryError, match=r"labelmap.txt: line 1"):
        open_dataset(f"folder:{tmp_path / 'mine.yaml'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("klasses: [a, b]", "klasses"),
        ("classes: [a, b, c]\nsplits: {x: {fil: x.txt}}", r"splits.x.fil: unknown key; .* Did you mean 'file'\?"),
        ("classes: {-1: null, 0: a, 1: b}", "classes or ignore: -1 is no id of a mask"),
        ("classes: [a, b, c]\ncolors: {A: [1, 2, 3], d: [1, 2, 4]}", "colors: no class is named 'd'; write of a, b, c"),
        ("classes:\n\t- a", "is no YAML: .* write spaces, not tabs"),
        ("classes: 3", "dataset.yaml: classes: write a list of names, id: name, the name of a label space"),
        ("classes: {road: 0, car: 1}", "classes: write id: name, for instance"),
        ("classes: {0: a, 1: b, 0: c}", "'0' is given twice"),
        ("classes: names.txt", "names.txt: classes: cannot be read"),
        ("classes: [a, b, c]\nignore: far", r"dataset.yaml: ignore: write ids, for instance \[250, 254\]"),
        (
            "colors: {a: [0, 0, 0], b: [0, 256, 0]}",
            r"colors.b.1: .* less than or equal to 255 \(got 256\)",
        ),
        ("colors: {a: [0, 0, 0], b: [1, 0, 0]}\nignore: [[0, -1, 0]]", "ignore: write ids.* from 0 to 255"),
        ("colors: {a: [0, 0, 0], b: [1, 0, 0]}\nignore: [7]", "ignore: names ids, but masks hold colours"),
        ("classes: [a, b]\nbits: 20", "bits: Input should be less than or equal to 16"),
        ("classes: [a, b]\nmerge: {x: a}", "no class is named 'x'"),
        ("classes: [a, b]\nignore: [1]", "1 is also a class"),
        ("classes: [a, b", "is no YAML"),
        ("", "give 'classes', or 'colors' or 'labelmap'"),
        ("classes: [a, b]\nroot: nowhere", "root: does not exist"),
    ],
)
def test_a_wrong_description_names_file_and_field(tmp_path, text, message):
    with pytest.raises(SegRefineryError, match=message) as error:
        open_dataset(folder(tmp_path, text))
    assert str(tmp_path) in str(error.value)


def test_a_misspelt_key_is_named_and_not_that_the_right_one_is_missing(tmp_path):
    reference = folder(tmp_path, "")
    text = "Images: images/{name}.png\nmasks: masks/{name}.png\nclasses: [a, b, c]\n"
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(SegRefineryError, match=r"dataset.yaml: Images: unknown key; .* Did you mean 'images'\?"):
        open_dataset(reference)
    (tmp_path / "dataset.yaml").write_bytes(text.replace("I", "i").replace("[a", "[é").encode("latin-1"))
    with pytest.raises(SegRefineryError, match=r"is no YAML: .*; save it as UTF-8"):
        open_dataset(reference)


@pytest.mark.parametrize("form", ["\ufeff", "\r\n"])
def test_marks_and_line_ends_of_windows_change_nothing(tmp_path, form):
    reference = folder(tmp_path, "classes: classes.txt\nsplits: {some: {file: some.txt}}\n", (0, 1, 2))
    for file, text in (("classes.txt", "a\nb\nc\n"), ("some.txt", "plain\nwith space\n")):
        (tmp_path / file).write_text(text, "utf-8")
    plain = open_dataset(f"{reference}@some")
    for file in ("dataset.yaml", "classes.txt", "some.txt"):
        text = (tmp_path / file).read_text("utf-8")
        changed = form + text if form == "\ufeff" else text.replace("\n", form)
        (tmp_path / file).write_bytes(changed.encode())
    same = open_dataset(f"{reference}@some")
    assert (same.space, len(same), same.name(1)) == (plain.space, 2, "with space")


def test_the_colour_of_a_class_that_merge_makes_is_used(tmp_path):
    text = "classes: [a, b, c]\nmerge: {b: d, c: d}\ncolors: {d: [1, 2, 3], a: [4, 5, 6]}"
    space = open_dataset(folder(tmp_path, text)).space
    assert space is not None
    assert (space.classes, space.colors) == (("a", "d"), ((4, 5, 6), (1, 2, 3)))


def test_only_masks_fit_the_images_pattern(tmp_path):
    reference = folder(tmp_path, "classes: [a, b, c]")
    for pattern, message in (("masks/{name}.png", "nothing but masks fits"), ("images\\{name}.png", "folders with /")):
        (tmp_path / "dataset.yaml").write_text(f"images: {pattern}\nmasks: masks/{{name}}.png\nclasses: [a, b, c]")
        with pytest.raises(SegRefineryError, match=message):
            open_dataset(reference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# mine\na\nb\nc\n", r"names.txt: classes: '# mine' is no name, and each line counts as an id; write one"),
        ("0 a\n1 b\n2 c\n", r"names.txt: classes: its lines, first '0 a', hold more than names"),
        ("- a\n- b\n- c\n", r"names.txt: classes: its lines, first '- a', hold more than names"),
        ("a\n\xe9\n", r"names.txt: classes: is no UTF-8 text; save it as UTF-8"),
    ],
)
def test_a_file_of_classes_whose_lines_are_no_ids_is_refused(tmp_path, content, message):
    reference = folder(tmp_path, "classes: names.txt", (0, 1, 2))
    (tmp_path / "names.txt").write_bytes(content.encode("latin-1"))
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(reference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("use,frame\nx,plain\nx\n", r"s.csv: line 3: has 1 columns, the header 2; complete it"),
        ("use,frame\nx,a,b\n", r"s.csv: line 2: has 3 columns, the header 2; complete it, and quote"),
        ("use,frame\nx,{}\n".format("y" * 200_000), r"s.csv: line 2: is no CSV \(field larger"),
        ("use,frame,use\nx,plain,y\n", r"s.csv: splits.column: there are several columns 'use'"),
    ],
)
def test_a_csv_file_that_is_not_even_is_refused(tmp_path, content, message):
    reference = folder(tmp_path, "classes: [a, b, c]\nsplits: {x: {file: s.csv, column: use, value: x, name: frame}}")
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(f"{reference}@x")


def test_a_pattern_that_begins_with_name_wants_quotes(tmp_path):
    reference = folder(tmp_path, "")
    (tmp_path / "dataset.yaml").write_text("images: {name}.png\n")
    with pytest.raises(SegRefineryError, match=r"is no YAML: .*put what begins with {name} in quotes"):
        open_dataset(reference)


def test_plain_directory_glob_and_single_file(tmp_path):
    for name in ("a/x.jpg", "b/x.png", "b/y@z.png", "b/[1].png"):
        picture(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("no image")
    (tmp_path / "b/.hidden.png").write_text("no image")
    dataset = open_dataset(str(tmp_path))
    assert [dataset.name(i) for i in range(len(dataset))] == ["a/x", "b/[1]", "b/x", "b/y@z"]
    assert not dataset.has_labels
    assert dataset.space is None
    assert len(open_dataset(f"{tmp_path}/*/x.*")) == 2
    assert open_dataset(f"{tmp_path}/b/[1].png").name(0) == "[1]"
    picture(tmp_path / "a/x.png")
    assert open_dataset(f"{tmp_path}/a").name(0) == "x.jpg"


def test_an_at_sign_in_a_path_is_no_split(tmp_path):
    root = tmp_path / "me@home"
    assert len(open_dataset(folder(root, "classes: [a, b, c]"))) == len(NAMES)


def test_paths_that_hold_nothing(tmp_path):
    with pytest.raises(SegRefineryError, match=r"holds no image \(nothing\)"):
        open_dataset(str(tmp_path))
    (tmp_path / "a.exr").write_text("x")
    with pytest.raises(SegRefineryError, match=r"only .exr files"):
        open_dataset(str(tmp_path))
    for reference in (f"{tmp_path}/none", f"gta5:{tmp_path}/none", f"folder:{tmp_path}/none", "gta5:"):
        with pytest.raises(SegRefineryError):
            open_dataset(reference)
    with pytest.raises(SegRefineryError, match="Did you mean 'gta5'"):
        open_dataset(f"gta:{tmp_path}/x")
    with pytest.raises(SegRefineryError, match=r"holds a dataset.yaml"):
        open_dataset(folder(tmp_path, "classes: [a, b, c]").removeprefix("folder:"))


def test_scenes_by_reference():
    dataset = open_dataset("scenes:night,count=3,size=32x48@test")
    assert len(dataset) == 3
    assert dataset.image(0).shape == (3, 32, 48)
    assert dataset.reference == "scenes:night,count=3,size=32x48@test"
    for wrong in ("scenes:noon", "scenes:day@nope", "scenes:day,size=3", "scenes:day,count=0"):
        with pytest.raises(SegRefineryError):
            open_dataset(wrong)


def test_views(tmp_path):
    dataset = open_dataset(folder(tmp_path, "classes: [road, lane, car]"))
    hidden = UnlabeledView(dataset)
    assert not hidden.has_labels
    assert not hasattr(hidden, "label")
    assert len(hidden.files(0)) == 1
    remapped = Remapped(dataset, SPACES["cityscapes"], {"lane": "road"})
    assert remapped.label(0)[0, :4].tolist() == [0, 0, 13, 255]
    with pytest.raises(SegRefineryError, match="has no labels"):
        Remapped(open_dataset(str(tmp_path / "images")), SPACES["cityscapes"])


def test_align_on_common_classes(tmp_path):
    source = open_dataset(folder(tmp_path / "s", "classes: [road, lane, car]"))
    other = open_dataset(folder(tmp_path / "t", "classes: [Car, tree, Road]"))
    images = open_dataset(str(tmp_path / "t/images"))
    space, mapped, target, evaluation, sentence, ignored, *_ = align(source, images, other)
    assert space.classes == ("Car", "Road")
    assert mapped.label(0)[0, :4].tolist() == [1, 255, 0, 255]
    assert evaluation is not None
    assert evaluation.label(0)[0, :4].tolist() == [0, 255, 1, 255]
    assert not hasattr(target, "label")
    assert sentence == "2 classes: Car, Road; ignored from the source: lane; ignored from the evaluation: tree."
    assert ignored == {"source": ("lane",), "evaluation": ("tree",)}
    assert align(source, images).space.classes == ("road", "lane", "car")
    assert align(source, other).space.classes == ("Car", "Road")


def test_align_with_a_forced_space(tmp_path):
    source = open_dataset(folder(tmp_path / "s", "classes: [road, lane, car]"))
    target = open_dataset(str(tmp_path / "s/images"))
    assert align(source, target, space=["car", "lane"]).source.label(0)[0, :4].tolist() == [255, 1, 0, 255]
    with pytest.raises(SegRefineryError, match="the source has no class bus"):
        align(source, target, space="car, bus")
    with pytest.raises(SegRefineryError, match=r"source .* has no labels"):
        align(target, target)
    with pytest.raises(SegRefineryError, match=r"every image here needs a mask\.$"):
        align(open_dataset(str(tmp_path / "s/images/*.png")), target)


def test_benchmark_descriptions():
    data = Path(os.environ.get("SEGREFINERY_DATA", BENCHMARKS / "../../../shared/data"))
    if not data.is_dir():
        pytest.skip("the development data is not here; set SEGREFINERY_DATA to its folder")
    sizes = {
        "carla.yaml@source_train": 718,
        "carla.yaml@source_val": 132,
        "camvid.yaml@cross_target_train": 367,
        "camvid.yaml@cross_target_val": 101,
        "camvid.yaml@cross_target_test": 233,
        "camvid.yaml@dusk_source": 577,
        "camvid.yaml@dusk_train": 62,
        "camvid.yaml@dusk_test": 62,
    }
    opened = {name: open_dataset(f"folder:{BENCHMARKS}/{name}") for name in sizes}
    assert {name: len(dataset) for name, dataset in opened.items()} == sizes
    space, source, *_ = align(opened["carla.yaml@source_train"], opened["camvid.yaml@cross_target_train"])
    assert space.num_classes == 10
    assert "Bicyclist" not in space.classes
    assert int(source.label(0)[source.label(0) != 255].max()) < 10


def test_settings_become_what_was_meant(tmp_path):
    dataset = open_dataset(folder(tmp_path, "classes: {0: no, 1: on, 2: 7}\nignore: 250", (0, 1, 2, 250)))
    assert dataset.space is not None
    assert dataset.space.classes == ("no", "on", "7")
    assert dataset.label(0)[0, :4].tolist() == [0, 1, 2, 255]
    (tmp_path / "classes.txt").write_text("sky\nroad\n\nbox\n")
    dataset = open_dataset(folder(tmp_path, "classes: classes.txt"))
    assert dataset.space is not None
    assert dataset.space.classes == ("sky", "road", "box")


def test_12_bits_in_16_are_said_and_read_by_their_setting(tmp_path):
    values = np.array([[0, 2048], [4095, 100]], dtype=np.uint16)
    index_png(tmp_path / "a/images/1.png", values)
    with pytest.raises(SegRefineryError, match=r"1.png: image: has 16 bits, but its values end at 4095: .*bits: 12"):
        open_dataset(str(tmp_path / "a/images")).image(0)
    (tmp_path / "a/dataset.yaml").write_text("images: images/{name}.png\nbits: 12")
    assert open_dataset(f"folder:{tmp_path}/a").image(0)[1].tolist() == [[0, 128], [255, 6]]
    (tmp_path / "a/dataset.yaml").write_text("images: images/{name}.png\nbits: 10")
    with pytest.raises(SegRefineryError, match=r"holds the value 4095, more than 10 bits"):
        open_dataset(f"folder:{tmp_path}/a").image(0)
    (tmp_path / "a/dataset.yaml").write_text("images: images/{name}.png\nbits: 16")
    assert open_dataset(f"folder:{tmp_path}/a").image(0)[0].tolist() == [[0, 8], [16, 0]]


def test_a_turned_image_whose_mask_fits_both_ways_must_be_explained(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[:32] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/1.jpg", exif=exif)
    index_png(tmp_path / "masks/1.png", pixels[..., 0] // 255)
    text = "images: images/{name}.jpg\nmasks: masks/{name}.png\nclasses: [road, sky]\n"
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(SegRefineryError, match=r"1.png: mask: 1.jpg is to be turned by its EXIF mark.*exif: ignore"):
        open_dataset(f"folder:{tmp_path}").label(0)
    for choice, agree in (("ignore", True), ("follow", False)):
        (tmp_path / "dataset.yaml").write_text(f"{text}exif: {choice}")
        dataset = open_dataset(f"folder:{tmp_path}")
        assert bool(((dataset.image(0)[0] > 127) == (dataset.label(0) == 1)).all()) == agree
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "images/1.jpg", exif=exif)
    (tmp_path / "dataset.yaml").write_text(f"{text}exif: ignore")
    assert open_dataset(f"folder:{tmp_path}").label(0).shape == (64, 96)
    (tmp_path / "dataset.yaml").write_text(text)
    index_png(tmp_path / "masks/1.png", np.zeros((96, 64), dtype=np.uint8))
    assert open_dataset(f"folder:{tmp_path}").label(0).shape == (96, 64)


@pytest.mark.parametrize("classes", ["[sky, road, road]", "{0: sky, 1: road, 2: road}", "classes.txt"])
def test_ids_that_are_one_class_are_said(tmp_path, classes):
    (tmp_path / "classes.txt").write_text("sky\nroad\nroad\n")
    dataset = open_dataset(folder(tmp_path, f"classes: {classes}\n", (0, 1, 2)))
    assert list(notes_of(dataset)) == ["the ids 1 and 2 are one class, 'road'"]
    assert dataset.space is not None
    assert dataset.space.classes == ("sky", "road")
