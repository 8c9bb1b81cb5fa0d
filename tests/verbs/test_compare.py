"""Comparison of runs without labels, and the verdict every adaptation ends with."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import segrefinery as api
from runs import NIGHT, TINY, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.verbs.compare import compare


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("compare") / "run")


def test_every_adaptation_ends_with_a_verdict(run):
    kept = json.loads((run / "results.json").read_text())["verdict"]
    assert kept["word"] in ("better", "no evidence", "worse")
    assert kept["interval"][0] <= kept["interval"][1]
    assert kept["reasons"]
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["word"] for record in told if record["kind"] == "verdict"] == [kept["word"]]
    assert {record["stage"] for record in told if record["kind"] == "trust"} == {"source", "adapt"}


def test_resuming_a_finished_run_gives_no_second_verdict(run):
    before = (run / "metrics.jsonl").read_text()
    tiny_run(run, resume=True)
    assert (run / "metrics.jsonl").read_text() == before


def test_the_verdict_needs_no_evaluation_set(tmp_path):
    said = []
    blind = tiny_run(tmp_path / "run", evaluation=None, say=said.append)
    assert "word" in json.loads((blind / "results.json").read_text())["verdict"]
    assert any(line.startswith("verdict: ") for line in said)


def test_one_target_image_is_no_evidence_but_no_crash(tmp_path):
    folder = api.adapt(
        "self_training", "scenes:day,count=4,size=32x64", "scenes:night,count=1,size=32x64", tmp_path / "run",
        scale="small", overrides=(*TINY, "stages.source.steps=1", "stages.adapt.steps=1"),
    )  # fmt: skip
    kept = json.loads((folder / "results.json").read_text())["verdict"]
    assert kept["word"] != "better"
    assert kept["interval"] is None


def test_runs_are_ranked_by_the_combined_score(run):
    found = compare([run])
    assert {model.name for model in found} == {str(run), f"{run}/source_model"}
    assert [model.scores["trust"] for model in found] == sorted((m.scores["trust"] for m in found), reverse=True)
    verdicts = {model.name: model.verdict for model in found}
    assert verdicts[f"{run}/source_model"] is None
    kept = json.loads((run / "results.json").read_text())["verdict"]
    again = verdicts[str(run)]
    assert again is not None
    assert again.word == kept["word"]
    assert again.difference == pytest.approx(kept["difference"], abs=1e-6)


def test_a_models_numbers_in_a_table_belong_together(run):
    """Trust is scale times the root of anchors, both over the classes that any of the compared models sees."""
    for model in compare([run]):
        expected = model.scores["balanced_scale"] * model.scores["anchors"] ** 0.5
        assert model.scores["trust"] == pytest.approx(expected, abs=1e-6)


def test_a_model_folder_needs_a_target(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "alone")
    with pytest.raises(SegRefineryError, match="--target"):
        compare([tmp_path / "alone"])
    found = compare([tmp_path / "alone", run], NIGHT)
    assert {model.name: model.same_as for model in found} == {
        str(tmp_path / "alone"): None,
        str(run): str(tmp_path / "alone"),
        f"{run}/source_model": None,
    }
    scores = {model.name: model.scores for model in found}
    assert scores[str(run)] == scores[str(tmp_path / "alone")]


def test_what_cannot_be_compared_is_named(run, tmp_path):
    with pytest.raises(SegRefineryError, match="holds no trained model"):
        compare([tmp_path])
    with pytest.raises(SegRefineryError, match="one image"):
        compare([run], "scenes:night,count=1,size=32x64")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace(NIGHT, "scenes:fog,count=6,size=32x64"))
    with pytest.raises(SegRefineryError, match=r"different targets.*--target"):
        compare([run, other])
    for part in ("model", "source_model"):
        config = json.loads((other / part / "config.json").read_text())
        config["classes"][0] = "lava"
        (other / part / "config.json").write_text(json.dumps(config))
    with pytest.raises(SegRefineryError, match=r"different classes.*lava"):
        compare([run, other], NIGHT)


def test_the_model_can_be_chosen_by_score(tmp_path):
    options = (
        "training.choose=score",
        "stages.adapt.generations=2",
        "stages.adapt.labels=offline",
        "stages.adapt.steps=2",
    )
    chosen = tiny_run(tmp_path / "run", overrides=options)
    results = json.loads((chosen / "results.json").read_text())
    assert results["adapted"]["stage"] == results["chosen"]
    name = results["chosen"]
    origin = chosen / "source_model" if name == "source" else chosen / "candidates" / name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (chosen / "model", origin))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert sorted(path.name for path in (chosen / "candidates").iterdir()) == ["adapt-1", "adapt-2"]
    assert len(compare([chosen])) == 4


@pytest.mark.parametrize(("runs", "said"), [("runs/a", r"write \['runs/a'\]"), ([], "none to compare")])
def test_runs_are_a_list(runs, said):
    with pytest.raises(SegRefineryError, match=said):
        compare(runs)
