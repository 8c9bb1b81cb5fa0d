"""Links that lead in circles or nowhere, and names that hold signs of a pattern."""

from __future__ import annotations

import numpy as np
import pytest

from data.pictures import SIZE, index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.check import check_datasets
from segrefinery.data.datasets import notes_of, open_dataset
from segrefinery.verbs.named import refuse_inside


def names(reference):
    dataset = open_dataset(str(reference))
    return [dataset.name(index) for index in range(len(dataset))]


def described(root, *stems):
    for stem in stems:
        picture(root / "images" / f"{stem}.png")
        index_png(root / "masks" / f"{stem}.png", np.resize(np.array([0, 1], dtype=np.uint8), SIZE))
    (root / "dataset.yaml").write_text("images: images/{name}.png\nmasks: masks/{name}.png\nclasses: [road, car]\n")
    return f"folder:{root}"


@pytest.mark.parametrize("ends", ["", "/**/*.jpg"])
def test_links_in_circles_show_an_image_once(tmp_path, ends):
    for name in ("a", "x/b"):
        picture(tmp_path / "t" / f"{name}.jpg")
    for link, end in (("one", "."), ("two", "."), ("x/up", "../..")):
        (tmp_path / "t" / link).symlink_to(end)
    picture(tmp_path / "other/c.jpg")
    (tmp_path / "t/elsewhere").symlink_to("../other")
    assert names(f"{tmp_path}/t{ends}") == ["a", "elsewhere/c", "x/b"]


def test_a_link_to_the_folder_above_makes_no_image_of_a_mask(tmp_path):
    reference = described(tmp_path, "a")
    for folder in ("images", "masks"):
        (tmp_path / folder / "up").symlink_to("..")
    dataset = open_dataset(reference)
    assert (len(dataset), notes_of(dataset)) == (1, ())


@pytest.mark.parametrize("end", ["lost.jpg", "nowhere.jpg"])
@pytest.mark.parametrize("ends", ["", "/*.jpg"])
def test_a_link_that_leads_nowhere_is_an_error_that_names_it(tmp_path, end, ends):
    picture(tmp_path / "t/a.jpg")
    (tmp_path / "t/lost.jpg").symlink_to(end)
    found = check_datasets(open_dataset(described(tmp_path / "s", "a")), open_dataset(f"{tmp_path}/t{ends}"))
    (fault,) = (problem for problem in found.problems if problem.severity == "error")
    assert fault.file == f"{tmp_path}/t/lost.jpg"
    assert fault.message.startswith("cannot be read (")
    with pytest.raises(SegRefineryError, match="images are read"):
        refuse_inside(tmp_path / "t/lost.jpg", open_dataset(str(tmp_path / "t")))


def test_a_line_end_in_a_name_drops_nothing(tmp_path):
    assert names(described(tmp_path, "a\nb", "c")) == ["a\nb", "c"]


def test_a_folder_that_exists_is_no_pattern(tmp_path):
    for name in ("[cam]/a", "c/b"):
        picture(tmp_path / f"{name}.jpg")
    assert names(f"{tmp_path}/[cam]/*.jpg") == ["a"]
    assert names(f"{tmp_path}/[cd]/*.jpg") == ["b"]
    assert names(f"{tmp_path}/**/[ab].jpg") == ["[cam]/a", "c/b"]
    assert names(f"{tmp_path}/c/../c/?.jpg") == ["b"]
