"""Verbs in Python take several data sets as a list, and say in one line what names none."""

import json
from pathlib import Path

import pytest

import segrefinery as api
from data.test_joined import described
from runs import DAY, NIGHT, TEST, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.evaluation.results import read_results

FOG = "scenes:fog,count=3,size=32x64"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("several") / "run", evaluation=None)


def test_all_data_sets_of_a_list_are_looked_at(run, tmp_path):
    assert len(list(api.predict(run, [NIGHT, FOG]))) == 9
    assert api.pseudo_label(run, [NIGHT, FOG], tmp_path / "labels") == 9
    picked = api.audit(run, [NIGHT, FOG], tmp_path / "audit", 9).picked
    assert sorted(one.index for one in picked) == list(range(9))
    assert api.compare([run], [NIGHT, FOG])
    sides = api.check([DAY, FOG], NIGHT, evaluation=[FOG, FOG], scale="small").data.sides
    assert {side.role: side.images for side in sides} == {"source": 9, "target": 6, "evaluation": 6}


def test_a_set_has_the_scores_that_it_has_alone(run, tmp_path):
    """One lacks classes that the other has: a model that sees them there is wrong, but they have no IoU there."""
    few, fewer = described(tmp_path / "few", ("lane", "sky", "car")), described(tmp_path / "fewer", ("Sky", "road"))
    together = api.evaluate(run, [TEST, few, fewer])
    assert list(together["sets"]) == [TEST, few, fewer]
    for name, scores in together["sets"].items():
        alone = api.evaluate(run, name)
        assert len(alone.pop("missing")) == (0 if name == TEST else 13)
        assert scores == alone


def test_a_run_scores_each_set_as_evaluate_does(tmp_path):
    few = described(tmp_path / "few", ("sky", "road"))
    run = tiny_run(tmp_path / "run", "source_only", ("stages.source.steps=1",), evaluation=[TEST, few])
    kept = read_results(run)["source_only"]["sets"][few]
    assert [kept["iou"][name] is None for name in ("sky", "road", "car")] == [False, False, True]
    assert kept == {key: value for key, value in api.evaluate(run, few).items() if key != "missing"}


def test_sets_that_call_a_class_otherwise_have_its_score(tmp_path):
    """By a synonym, and by the merge that the model was trained with."""
    merge = {"automobile": "car"}
    sets = [
        described(tmp_path / name, ("lane", second, "sky")) for name, second in (("one", "automobile"), ("two", "tree"))
    ]
    run = tiny_run(
        tmp_path / "run",
        "source_only",
        ("stages.source.steps=1", f"merge={json.dumps(merge)}"),
        evaluation=[TEST, *sets],
    )
    together = api.evaluate(run, sets)
    for name, scores in together["sets"].items():
        alone = api.evaluate(run, name)
        assert scores == {key: value for key, value in alone.items() if key != "missing"}
        assert read_results(run)["source_only"]["sets"][name] == scores
    assert [together["sets"][name]["iou"][kind] is None for name, kind in zip(sets, ("car", "vegetation"))] == [
        False
    ] * 2


def test_what_scores_has_no_shares(run, tmp_path):
    with pytest.raises(SegRefineryError, match=r"^on 2 of scenes:.*shares say how often images are drawn to teach"):
        api.evaluate(run, [f"2 of {TEST}", FOG])
    with pytest.raises(SegRefineryError, match=r"^evaluation 2 of scenes:.*: shares say how often images are drawn"):
        tiny_run(tmp_path / "run", evaluation=[f"2 of {TEST}", FOG])


def test_a_set_without_a_class_of_the_model_is_refused(run, tmp_path):
    odd = described(tmp_path / "odd", ("cat", "dog"))
    with pytest.raises(SegRefineryError, match=rf"^{odd}: none of its classes can be scored; leave it out, or say"):
        api.evaluate(run, [TEST, odd])


CALLS = {
    "on": lambda run, data, out: api.evaluate(run, data),
    "images": lambda run, data, out: next(api.predict(run, data)),
    "target": lambda run, data, out: api.pseudo_label(run, data, out),
    "target of audit": lambda run, data, out: api.audit(run, data, out),
    "target of compare": lambda run, data, out: api.compare([run], data),
    "target of check": lambda run, data, out: api.check(DAY, data),
    "target of adapt": lambda run, data, out: api.adapt("self_training", DAY, data, out),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("data", [5, [5], {"day": 1}, [""], b"day"], ids=repr)
def test_what_names_no_data_set_is_refused(run, tmp_path, what, data):
    with pytest.raises(SegRefineryError, match=rf"^{what.split()[0]}: (NAME:PATH|the name of a data set is empty)"):
        CALLS[what](run, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_list_names_no_images(run):
    with pytest.raises(SegRefineryError, match=r"^on: name a data set"):
        api.evaluate(run, [])
