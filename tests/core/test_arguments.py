"""What a verb is called with is of the kind that it declares."""

from pathlib import Path

import numpy as np
import pytest

import segrefinery as api
from segrefinery.core.errors import SegRefineryError

RUN, DATA = "no/run", "no/images"
RUN_WANTED = "run: a path or a Model expected, got "

WRONG = {
    "run": (lambda: api.evaluate(5, DATA), RUN_WANTED + "5"),
    "no run": (lambda: api.predict(None, DATA), RUN_WANTED + "None"),
    "runs": (lambda: api.pseudo_label([RUN, RUN], DATA, "out"), RUN_WANTED + "['no/run', 'no/run']"),
    "run of export": (lambda: api.export(5, "out"), "run: a path expected, got 5"),
    "run of push": (lambda: api.push([RUN], "me/it"), "run: a path expected, got ['no/run']"),
    "run of report": (lambda: api.report(None), "run: a path expected, got None"),
    "path": (lambda: api.load(5), "path: a path expected, got 5"),
    "one run": (lambda: api.compare(RUN), "runs: a list of paths expected, got 'no/run'; write ['no/run']"),
    "no output": (lambda: api.pseudo_label(RUN, DATA, None), "output: a path expected, got None"),
    "adapt": (lambda: api.adapt("dacs", DATA, DATA, None), "output: a path expected, got None"),
    "reuse": (lambda: api.adapt("dacs", DATA, DATA, "out", reuse=5), "reuse: a path expected, got 5"),
    "seed": (lambda: api.adapt("dacs", DATA, DATA, "out", seed="1"), "seed: a whole number expected, got '1'"),
    "resume": (lambda: api.adapt("dacs", DATA, DATA, "out", resume=1), "resume: True or False expected, got 1"),
    "count": (lambda: api.audit(RUN, DATA, count="2"), "count: a whole number of at least 2 expected, got '2'"),
    "half": (lambda: api.audit(RUN, DATA, count=2.5), "count: a whole number of at least 2 expected, got 2.5"),
    "true": (lambda: api.audit(RUN, DATA, count=True), "count: a whole number of at least 2 expected, got True"),
    "few": (lambda: api.compare([RUN], DATA, images=1), "images: a whole number of at least 2 expected, got 1"),
    "threshold": (lambda: api.pseudo_label(RUN, DATA, "out", "0.5"), "threshold: a number expected, got '0.5'"),
    "factor": (lambda: api.predict(RUN, DATA, factor=0), "factor: a number above 0 expected, got 0"),
    "no number": (lambda: api.predict(RUN, DATA, factor=float("nan")), "factor: a number above 0 expected, got nan"),
    "classes": (lambda: api.evaluate(RUN, DATA, classes=5), "classes: a text or a list of texts expected, got 5"),
    "size": (
        lambda: api.export(RUN, "out", size=5),
        "size: height and width in pixels, for instance (512, 1024), expected, got 5",
    ),
    "progress": (lambda: api.check(DATA, DATA, progress=5), "progress: a function expected, got 5"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_argument_of_another_kind_is_named(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, said = WRONG[what]
    with pytest.raises(SegRefineryError) as error:
        call()
    assert str(error.value) == said
    assert not list(tmp_path.iterdir())


class Pairs:
    """A data set in Python, which shows itself in several lines, as torchvision's do."""

    def __repr__(self):
        return "Dataset Pairs\n    Number of datapoints: 3\n    Root location: here"


@pytest.mark.parametrize("given", [Pairs(), [Pairs()]])
def test_a_data_set_in_python_is_to_be_written_as_files(given):
    with pytest.raises(SegRefineryError) as error:
        api.adapt("dacs", given, DATA, "out")
    said = str(error.value)
    assert "Dataset Pairs Number of datapoints: 3 Root" in said
    assert "\n" not in said
    assert "into a folder (and its masks, with a dataset.yaml) or into shards" in said


@pytest.mark.parametrize("count", [np.int64(3), 3], ids=repr)
def test_what_does_as_well_is_taken(count, tmp_path):
    """A number of numpy's, any path, a tuple in place of a list: what is wrong is said of the folder, which is none."""
    with pytest.raises(SegRefineryError, match="holds no trained model"):
        api.audit(tmp_path, "scenes:day,count=3,size=32x64", count=count, others=(Path("other"),))
