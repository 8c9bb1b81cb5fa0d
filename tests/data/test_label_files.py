"""Pseudo-labels on disk: names that can be read, and a list that says which file is whose."""

from __future__ import annotations

import csv

import pytest
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.label_files import PseudoLabeled, file_stem, write_label_set, write_manifest
from segrefinery.labels import LabelSpace

SPACE = LabelSpace.of("two", ("road", "car"))
NAMES = ["a.b.c 004", "frame.0001", "Straße/夜景, 1", "frame.0002"]


class Target:
    def __len__(self):
        return len(NAMES)

    def name(self, index):
        return NAMES[index]


def written(folder):
    """Image i has class i % 2 everywhere, and the weight (i + 1) / 4."""
    found = []
    for part in ([2, 3], [0, 1]):
        label = torch.stack([torch.full((4, 6), i % 2) for i in part])
        weight = torch.stack([torch.full((4, 6), (i + 1) / 4) for i in part])
        found.append((label, weight, torch.tensor(part)))
    write_label_set(folder, found, NAMES, SPACE)
    return folder


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b.c 004", "000007_a.b.c_004"),
        ("frame.0001", "000007_frame.0001"),
        ("Straße", "000007_Straße"),
        ("夜景", "000007_夜景"),
        ("हिन्दी ٣", "000007_हिन्दी_٣"),
        ("a\u0308", "000007_ä"),
        ("monday/cam 1/0001", "000007_monday_cam_1_0001"),
        ("../a:b*?\"<>|\\'c\n\u202ed\udcff", "000007_.._a_b_c_d"),
        ("", "000007_"),
    ],
)
def test_the_whole_name_is_kept_as_far_as_it_is_safe(name, stem):
    assert file_stem(7, name) == stem


def test_a_long_name_keeps_its_end_and_stays_a_valid_file_name():
    stem = file_stem(1_234_567, "夜" * 300 + "/frame.0001")
    assert stem.startswith("1234567_夜夜")
    assert stem.endswith("夜_frame.0001")
    assert len(f"{stem}.confidence.png".encode()) <= 143


def test_labels_are_found_again_by_name(tmp_path):
    labels = PseudoLabeled(Target(), written(tmp_path / "labels"))
    for index in range(len(NAMES)):
        label, weight = labels.pseudo(index)
        assert label.shape == (4, 6)
        assert label.unique().tolist() == [index % 2]
        assert weight.unique().tolist() == [round(255 * (index + 1) / 4)]
    (tmp_path / "labels" / f"{file_stem(1, NAMES[1])}.png").unlink()
    with pytest.raises(SegRefineryError, match=r"000001_frame.0001.png: .* cannot be read"):
        labels.pseudo(1)


def test_a_list_says_which_file_is_whose(tmp_path):
    folder = written(tmp_path / "labels")
    with (folder / "files.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["name"] for row in rows] == NAMES
    assert rows[2]["file"] == "000002_Straße_夜景_1.png"
    assert all((folder / row["file"]).exists() for row in rows)
    assert len(list(folder.iterdir())) == 2 * len(NAMES) + 1


def test_a_name_that_is_no_text_is_listed_by_its_bytes(tmp_path):
    path = write_manifest(tmp_path, [(3, "b\udcff", tmp_path / "000003_b.png"), (1, 'a,"', "000001_a.png")])
    assert path.read_bytes() == b'number,name,file\n1,"a,""",000001_a.png\n3,b\xff,000003_b.png\n'


def test_results_that_a_new_list_does_not_name_are_said(tmp_path, recwarn):
    for name in ("000000_a.png", "000001_b.png", "000001_a.png"):
        (tmp_path / name).write_bytes(b"x")
    write_manifest(tmp_path, [(0, "a", "000000_a.png"), (1, "b", "000001_b.png")])
    write_manifest(tmp_path, [(0, "a", "000000_a.png"), (1, "b", "000001_b.png")])
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match=r"holds 1 results, first 000000_a.png, of images that are gone or have another"
    ):
        write_manifest(tmp_path, [(0, "n", "000000_n.png"), (1, "b", "000001_b.png")])
