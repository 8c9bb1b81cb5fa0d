"""Verbs in Python take several data sets as a list, and say in one line what names none."""

from pathlib import Path

import pytest

import segrefinery as api
from runs import DAY, NIGHT, tiny_run
from segrefinery.core.errors import SegRefineryError

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
