"""What a stage makes of the model before its first step may be shipped, where the run ships what scores best."""

import json
import shutil

import torch
from safetensors.torch import load_file

import segrefinery as api
from runs import NIGHT, TEST, TINY, same, weights
from segrefinery.engine.tracker import records
from segrefinery.engine.witness import Witness

NORMED = ("model.name=smp:unet/resnet18", "model.weights=none", "model.options={}", "stages.adapt.steps=2")


def adapted(folder, start, *overrides, **options):
    return api.adapt(
        "source_free", None, NIGHT, folder, start=start, scale="small", evaluation=TEST,
        overrides=(*TINY, *NORMED, *overrides), **options,
    )  # fmt: skip


def brought(folder):
    torch.manual_seed(0)
    source = api.adapt(
        "source_only", "scenes:day,count=6,size=32x64", NIGHT, folder, scale="small",
        overrides=(*TINY, *NORMED[:3], "stages.source.steps=1"),
    )  # fmt: skip
    return source / "source_model"


def test_statistics_alone_are_a_candidate_and_are_shipped_where_they_score_best(tmp_path, monkeypatch):
    monkeypatch.setattr(Witness, "best", lambda self: "adapt-prepared")
    start = brought(tmp_path / "source")
    run = adapted(tmp_path / "run", start)
    results = json.loads((run / "results.json").read_text())
    assert list(results["stages"]) == ["start", "adapt-prepared", "adapt"]
    assert results["chosen"] == results["adapted"]["stage"] == results["verdict"]["stage"] == "adapt-prepared"
    assert same(weights(run), load_file(run / "candidates/adapt-prepared/model.safetensors"))
    before, after = load_file(start / "model.safetensors"), weights(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked") for name in moved)
    assert not same(after, load_file(run / "candidates/adapt/model.safetensors"))

    # a run that is resumed recalls the look, and keeps its record
    (run / "results.json").unlink()
    shutil.rmtree(run / "evaluation")
    shutil.rmtree(run / "model")
    told = [record["stage"] for _, record in records(run / "metrics.jsonl")]
    adapted(run, start, resume=True)
    assert json.loads((run / "results.json").read_text())["chosen"] == "adapt-prepared"
    assert same(weights(run), after)
    assert told.count("adapt-prepared") >= 2  # its look and its scores
