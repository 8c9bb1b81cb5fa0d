"""The lines of docs/data.md on films, shards, Hugging Face and other tools' formats, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data.pictures import picture
from data.test_packed import MASKS, PICTURES, pack, png
from runs import command, tiny_run
from segrefinery.data.datasets import open_dataset
from segrefinery.data.films import write_film

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n{title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def commands(title: str) -> list[list[str]]:
    """The words of the commands of a section."""
    return [line.split() for line in re.findall(r"^    segrefinery (.*)$", section(title), flags=re.M)]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("page") / "first", "source_only")


@pytest.fixture
def place(tmp_path, monkeypatch, first) -> Path:
    """A folder with the run of the page's commands, to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/first").symlink_to(first)
    return tmp_path


def test_films(place, monkeypatch, capsys):
    pytest.importorskip("av")
    (place / "my").mkdir()
    write_film(place / "my/drive.mp4", (np.full((32, 64, 3), n % 256, np.uint8) for n in range(1210)), 25)
    (words,) = commands("## Films")
    assert "reads the frames 600, 610, ..., 1190" in section("## Films")
    code, _, error = command(monkeypatch, capsys, *words)
    assert code == 0, error
    labelled = [path.name for path in sorted((place / "predicted").glob("*.overlay.png"))]
    assert len(labelled) == 60
    assert (labelled[0], labelled[-1]) == ("000000_drive_000600.overlay.png", "000059_drive_001190.overlay.png")
    assert "each is named by its number (`drive_000600`)" in section("## Films")
    assert (place / "predicted/drive.mp4").exists()


def test_shards(place):
    text = section("## Shards and Hugging Face")
    (reference,) = re.findall(r"`(shards:PATH/\*\.tar,classes=\w+)`", text)
    (place / "PATH").mkdir()
    endings = re.search(r"`KEY\.(mask)\.png` beside it \(or ([^)]+)\)", text)
    assert endings is not None
    words = [endings[1], *re.findall(r"`(\w+)`", endings[2])]
    assert set(words) == {"mask", "seg", "label", "annotation", "gt"}
    for number, word in enumerate(words):
        files = {"KEY.jpg": png(PICTURES[0]), f"KEY.{word}.png": png(MASKS[0])}
        renamed = {name.replace("KEY", f"{number}"): content for name, content in files.items()}
        pack(place / f"PATH/{number}.tar", renamed)
    dataset = open_dataset(reference)
    assert len(dataset) == len(words)
    assert all(np.array_equal(dataset.label(n).numpy(), MASKS[0]) for n in range(len(words)))


def test_hugging_face(place):
    library = pytest.importorskip("datasets")
    (place / "names.txt").write_text("road\ncar\n")
    rows = {
        "image": [{"bytes": png(each), "path": None} for each in PICTURES],
        "annotation": [{"bytes": png(each), "path": None} for each in MASKS],
    }
    features = library.Features({"image": library.Image(), "annotation": library.Image()})
    table = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict({"train": table}).save_to_disk(str(place / "ORG/NAME"))
    references = re.findall(r"`(hfds:ORG/NAME[^`]*)`", section("## Shards and Hugging Face"))
    assert [len(open_dataset(reference)) for reference in references] == [4, 4]
    named = open_dataset(references[1])
    assert named.space is not None
    assert named.space.classes == ("road", "car")
    assert np.array_equal(named.label(3).numpy(), MASKS[3])


@pytest.mark.parametrize("words", commands("### For other tools"), ids=" ".join)
def test_other_tools(place, monkeypatch, capsys, words):
    for library in ("pycocotools", "cv2"):
        pytest.importorskip(library)
    for number in range(2):
        picture(place / f"my/camera/{number}.png", (32, 64), 40 * number)
    code, _, error = command(monkeypatch, capsys, *words)
    assert code == 0, error
    output = place / words[words.index("-o") + 1]
    expected = {"labels": "labels/0.png", "labels_coco": "annotations.json", "outlines": "labels/train/0.txt"}
    assert (output / expected[output.name]).is_file()
    read_back = {"labels_coco": "coco:labels_coco/annotations.json", "outlines": "yolo:outlines"}
    if reference := read_back.get(output.name):
        assert f"`{reference}`" in section("### For other tools")
        assert len(open_dataset(reference)) == 2
