"""A report of a run folder with damaged files names one, in a line."""

import numpy as np
import pytest

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.folders import model_folder
from segrefinery.evaluation.results import read_results
from segrefinery.evaluation.trust.collect import Observation
from segrefinery.reporting import write_report

RECIPE = "name: mine\nsource: s\ntarget: t\nstages: {}\n"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("recipe.yaml", b"name: \x00", r"recipe\.yaml: cannot be read"),
        ("recipe.yaml", b"name: \xff", r"recipe\.yaml: cannot be read"),
        ("recipe.yaml", b"[1, 2]", "no report can be made"),
        ("environment.json", b'{"a": "\x01"}', r"environment\.json: cannot be read"),
        ("environment.json", b"[]", "no report can be made"),
        ("results.json", b"{", r"results\.json: cannot be read"),
    ],
)
def test_it_is_one_line(tmp_path, file, content, words):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(SegRefineryError, match=words) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[1]", "3"])
def test_results_that_are_no_mapping_are_one_line(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(SegRefineryError, match=r"results\.json: holds no mapping of names to scores; delete it"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("results", "gone"),
    [('{"adapted": {}}', True), ('{"verdict": {}}', True), ('{"source_only": {}}', False), ("{", False)],
)
def test_a_run_whose_model_is_gone_is_not_taken_for_source_only(tmp_path, results, gone):
    before = tmp_path / "source_model"
    before.mkdir()
    (before / "config.json").write_text("{}")
    assert model_folder(tmp_path) == before
    (tmp_path / "results.json").write_text(results)
    if not gone:
        assert model_folder(tmp_path) == before
        return
    with pytest.raises(
        SegRefineryError, match=r"model/config\.json: is gone.*--resume, which writes that again, or name"
    ):
        model_folder(tmp_path)


def test_a_damaged_look_is_named(tmp_path):
    np.savez_compressed(tmp_path / "look.npz", names=np.array(["a"]))
    with pytest.raises(SegRefineryError, match=r"look\.npz: cannot be read.*--resume"):
        Observation.load(tmp_path / "look.npz")
    (tmp_path / "look.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(SegRefineryError, match=r"look\.npz: cannot be read"):
        Observation.load(tmp_path / "look.npz")
