"""Data of other classes than a model's or a run's."""

from __future__ import annotations

import numpy as np
import pytest

from data.pictures import SIZE, index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align, align_to_model, classes_beside, evaluation_view
from segrefinery.data.datasets import open_dataset
from segrefinery.labels import SPACES, LabelSpace


def data(root, classes):
    picture(root / "images/0.png")
    index_png(root / "masks/0.png", np.resize(np.array([0, 1, 2, 255], dtype=np.uint8), SIZE))
    (root / "dataset.yaml").write_text(f"images: images/{{name}}.png\nmasks: masks/{{name}}.png\nclasses: {classes}\n")
    return open_dataset(f"folder:{root}")


MODEL = LabelSpace.of("model", ("sky", "road", "person", "car"))


def test_no_common_class_names_the_side(tmp_path):
    source, other = data(tmp_path / "s", "[road, car, sky]"), data(tmp_path / "o", "[cat, dog, cow]")
    with pytest.raises(SegRefineryError, match=r"^the source and the evaluation have no class in common. s has: road"):
        align(source, open_dataset(str(tmp_path / "s/images")), other)
    with pytest.raises(SegRefineryError, match=r"^the source and the target have no class in common. s has: road"):
        align(source, other)
    some = data(tmp_path / "some", "[cat, Road, cow]")
    with pytest.raises(SegRefineryError, match=r"^the source and the evaluation have only 'Road' in common"):
        align(source, other, some)


def test_a_model_is_scored_on_the_classes_that_the_data_has(tmp_path):
    view, missing = evaluation_view(data(tmp_path, "[Road, Car, cow]"), MODEL)
    assert view.space is MODEL
    assert view.label(0)[0, :4].tolist() == [1, 3, 255, 255]
    assert missing == ("sky", "person")
    assert classes_beside(data(tmp_path / "2", "[Road, Car, cow]"), MODEL) == ["cow"]
    assert classes_beside(data(tmp_path / "3", "[Road, Car, cow]"), MODEL, {"cow": None}) == []


def test_labels_that_teach_a_model_are_called_labels(tmp_path):
    target = open_dataset(str(data(tmp_path / "t", "[road, sky, car]").files(0)[0]))
    labels = data(tmp_path / "l", "[Road, lane, cow]")
    together = align_to_model(MODEL, target, None, {"lane": "car"}, labels)
    assert together.labels is not None
    assert together.labels.label(0)[0, :4].tolist() == [1, 3, 255, 255]
    assert (together.unscored, together.untold) == ((), ("sky", "person"))
    assert together.sentence.endswith("; ignored from the labels: cow.")
    with pytest.raises(
        SegRefineryError, match=r"^merge: no class is named 'lanes'. Classes of model: sky, road, .*; l: "
    ):
        align_to_model(MODEL, target, None, {"lanes": "car"}, labels)
    with pytest.raises(SegRefineryError, match=r"^labels o: no class is one of the run's. They have: cat, dog, cow; "):
        align_to_model(MODEL, target, None, None, data(tmp_path / "o", "[cat, dog, cow]"))
    for role, sets in (("labels", (None, None, target)), ("evaluation", (target, None, None))):
        with pytest.raises(SegRefineryError, match=rf"^{role} .*: has no labels; every image here needs a mask"):
            align_to_model(MODEL, target, *sets)  # pyright: ignore[reportArgumentType]


def test_merge_may_rename_what_only_the_labels_have(tmp_path):
    source, evaluation = data(tmp_path / "s", "[road, car, sky]"), data(tmp_path / "e", "[road, car, sky]")
    labels, target = data(tmp_path / "l", "[lane, car, cow]"), open_dataset(str(tmp_path / "s/images"))
    together = align(source, target, evaluation, None, {"lane": "road"}, labels)
    assert together.labels is not None
    assert together.labels.label(0)[0, :4].tolist() == [0, 1, 255, 255]


def test_classes_that_no_label_can_be_are_said(tmp_path):
    source, evaluation = data(tmp_path / "s", "[road, car, sky]"), data(tmp_path / "e", "[road, car, cow]")
    labels, target = data(tmp_path / "l", "[cow, car, sky]"), open_dataset(str(tmp_path / "s/images"))
    together = align(source, target, evaluation, ["road", "car", "sky"], None, labels)
    assert (together.unscored, together.untold) == (("sky",), ("road",))
    assert "; not scored, for no label of the evaluation is one: sky; ignored from the evaluation" in together.sentence


def test_the_models_merge_may_name_what_this_data_lacks(tmp_path):
    merge = {"lane": "road", "van": "car", "sky": None}
    view, missing = evaluation_view(data(tmp_path, "[lane, van, sky]"), MODEL, merge)
    assert view.label(0)[0, :4].tolist() == [1, 3, 255, 255]
    assert missing == ("sky", "person")


@pytest.mark.parametrize("only", ["Car, pedestrian", ["car", "person"], LabelSpace.of("two", ("car", "person"))])
def test_only_some_classes_are_scored(tmp_path, only):
    view, missing = evaluation_view(
        data(tmp_path, "[lane, van, Pedestrian]"), MODEL, {"lane": "road", "van": "car"}, only
    )
    assert view.label(0)[0, :4].tolist() == [255, 3, 2, 255]
    assert missing == ("sky", "road")


def test_only_by_the_name_of_a_space_or_of_one_class(tmp_path):
    dataset = data(tmp_path, "[wall, Road, train]")
    view, missing = evaluation_view(dataset, SPACES["cityscapes"], only="synthia13")
    assert view.label(0)[0, :4].tolist() == [255, 0, 255, 255]
    assert missing == SPACES["cityscapes"].classes[1:]
    assert evaluation_view(dataset, SPACES["cityscapes"], only="road")[0].label(0)[0, :4].tolist() == [255, 0, 255, 255]


def test_views_of_different_classes_have_different_contents(tmp_path):
    dataset = data(tmp_path, "[road, car, sky]")
    keys = {"\n".join(evaluation_view(dataset, MODEL, only=only)[0].content_key()) for only in (None, "road", "car")}
    assert len(keys) == 3


@pytest.mark.parametrize("only", ["synthia14", "road, bus", ["road", "bus"], "", [], "synthia13"])
def test_classes_that_the_model_lacks_cannot_be_asked_for(tmp_path, only):
    with pytest.raises(
        SegRefineryError, match=r"no class .*Choose from: sky, road, person, car; or .* synthia13"
    ) as it:
        evaluation_view(data(tmp_path, "[road, car, sky]"), MODEL, only=only)
    if only == ["road", "bus"]:
        assert "the model has no class bus." in str(it.value)


def test_data_without_one_class_of_the_model_are_refused(tmp_path):
    with pytest.raises(SegRefineryError, match=r"none of its classes.*It has: cat, dog, cow; the model has: sky, road"):
        evaluation_view(data(tmp_path / "a", "[cat, dog, cow]"), MODEL)
    dataset = data(tmp_path / "b", "[road, car, cow]")
    with pytest.raises(SegRefineryError, match=r"to be scored are: person. Name other data or other classes"):
        evaluation_view(dataset, MODEL, only=["person"])
    with pytest.raises(SegRefineryError, match="has no labels"):
        evaluation_view(open_dataset(str(tmp_path / "b/images")), MODEL)
