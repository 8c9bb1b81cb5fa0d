"""Runs: deterministic, resumable at any step, whole."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.io import write_png

import segrefinery.engine.loop as loop
from runs import TEST, same, tiny_run, weights
from segrefinery import api
from segrefinery.data.scenes import SceneDataset
from segrefinery.engine.run import plan
from segrefinery.errors import OutOfMemory, SegRefineryError, explained_if_out_of_memory
from segrefinery.stages.self_training import SelfTrainingSettings


class Killed(BaseException):
    """Stands for a process that dies without a chance to clean up."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run nobody interrupts."""
    return tiny_run(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_what_it_promises(whole):
    for name in ("recipe.yaml", "environment.json", "metrics.jsonl", "results.json", "model", "source_model"):
        assert (whole / name).exists(), name
    results = json.loads((whole / "results.json").read_text())
    assert set(results["stages"]) == {"source", "adapt"}
    assert 0 <= results["adapted"]["miou"] <= 1
    assert results["source_only"]["stage"] == "source"


def test_same_seed_same_weights_other_seed_other_weights(whole, tmp_path):
    assert same(weights(whole), weights(tiny_run(tmp_path / "again")))
    assert not same(weights(whole), weights(tiny_run(tmp_path / "other", seed=4)))


@pytest.mark.parametrize("dies_at", [2, 4, 5, 8])
def test_resume_is_exact(whole, tmp_path, monkeypatch, dies_at):
    steps = iter(range(100))
    step = loop.one_step

    def mortal(*arguments):
        if next(steps) == dies_at:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "run")
    monkeypatch.setattr(loop, "one_step", step)
    resumed = tiny_run(tmp_path / "run", resume=True)
    assert same(weights(whole), weights(resumed))
    lines = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    steps_told = [(line["stage"], line["step"]) for line in lines if line["kind"] == "train"]
    assert steps_told == sorted(set(steps_told), key=steps_told.index)
    assert steps_told[-1] == ("adapt", 5)


def test_resuming_a_finished_run_changes_nothing(whole):
    before = weights(whole)
    assert same(before, weights(tiny_run(whole, resume=True)))


def test_a_finished_stage_is_shared(whole, tmp_path, monkeypatch):
    tiny_run(tmp_path / "first", recipe="source_only", reuse=tmp_path / "shared")
    trained = []
    step = loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda *given: (trained.append(given[1]), step(*given))[1])
    shared = tiny_run(tmp_path / "second", reuse=tmp_path / "shared")
    assert set(trained) == {"adapt"}
    assert same(weights(whole), weights(shared))


def test_another_runs_finished_stages_are_taken_over(whole, tmp_path, monkeypatch):
    trained = []
    step = loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda *given: (trained.append(given[1]), step(*given))[1])
    before = sorted(path for path in whole.rglob("*") if path.is_file())
    slower = tiny_run(tmp_path / "slower", overrides=("stages.adapt.optimizer.lr=1.0e-5",), reuse=whole)
    assert set(trained) == {"adapt"}
    assert not same(weights(whole), weights(slower))
    trained.clear()
    assert same(weights(whole), weights(tiny_run(tmp_path / "copy", reuse=whole)))
    assert not trained
    assert sorted(path for path in whole.rglob("*") if path.is_file()) == before


def test_no_stage_is_taken_over_from_other_code(tmp_path, monkeypatch):
    tiny_run(tmp_path / "first", recipe="source_only", reuse=tmp_path / "shared")
    trained = []
    step = loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda *given: (trained.append(given[1]), step(*given))[1])
    monkeypatch.setattr("segrefinery.engine.run.code_digest", lambda: "other code")
    tiny_run(tmp_path / "second", recipe="source_only", reuse=tmp_path / "shared")
    assert set(trained) == {"source"}


def test_looks_are_taken_in_adaptation_even_where_stages_are_shared(tmp_path):
    tiny_run(tmp_path / "first", reuse=tmp_path / "shared")
    looked = tiny_run(tmp_path / "second", overrides=("training.look_every=2",), reuse=tmp_path / "shared")
    told = [json.loads(line) for line in (looked / "metrics.jsonl").read_text().splitlines()]
    assert [(record["stage"], record["step"]) for record in told if record["kind"] == "look"] == [
        ("adapt", 2),
        ("adapt", 4),
    ]
    assert not any(record["stage"] == "source" and record["kind"] == "train" for record in told)


def test_a_folder_is_never_overwritten(whole, tmp_path):
    with pytest.raises(SegRefineryError, match="--resume"):
        tiny_run(whole)
    with pytest.raises(SegRefineryError, match="other settings"):
        tiny_run(whole, resume=True, seed=5)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SegRefineryError, match="not empty"):
        tiny_run(tmp_path)


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_kept(tmp_path):
    with pytest.raises(SegRefineryError, match=r"not finite.*--reuse"):
        tiny_run(tmp_path / "run", overrides=("stages.source.optimizer.lr=1.0e30", "training.checkpoint_every=1"))
    kept = list((tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert kept
    for path in kept:
        state = torch.load(path, weights_only=True)
        assert state["step"] >= 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("alloc: can't allocate memory: you")]
)
def test_running_out_of_memory_names_the_step_and_what_needs_less(tmp_path, monkeypatch, error):
    step = loop.one_step

    def fails(*given):
        if given[5] == 3:
            raise error
        return step(*given)

    monkeypatch.setattr(loop, "one_step", fails)
    with pytest.raises(OutOfMemory, match=r"stage 'source', step 3: out of memory.*accumulate.*crop"):
        tiny_run(tmp_path / "run")


def test_other_errors_of_torch_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), explained_if_out_of_memory("here", "less"):
        raise RuntimeError("shapes differ")


def test_offline_generations_write_labels_to_look_at(tmp_path):
    run = tiny_run(
        tmp_path / "run",
        overrides=("stages.adapt.labels=offline", "stages.adapt.generations=2", "stages.adapt.steps=2"),
    )
    results = json.loads((run / "results.json").read_text())
    assert list(results["stages"]) == ["source", "adapt-1", "adapt-2"]
    for stage in ("adapt-1", "adapt-2"):
        files = sorted(path.name for path in (run / "stages" / stage / "labels").iterdir())
        assert len(files) == 12
        assert sum(name.endswith(".weight.png") for name in files) == 6


def test_generations_are_written_out_in_order():
    settings = SelfTrainingSettings(steps=1, generations=3)
    assert list(plan({"adapt": settings})) == ["adapt-1", "adapt-2", "adapt-3"]


def test_accumulated_micro_batches_give_the_same_gradient(tmp_path):
    options = ("model.options.dropout=0.0", "stages.source.optimizer.name=sgd", "stages.source.optimizer.lr=0.01")
    together = tiny_run(tmp_path / "together", "source_only", options)
    split = tiny_run(tmp_path / "split", "source_only", (*options, "training.accumulate=2"))
    a, b = (load_file(run / "source_model" / "model.safetensors") for run in (together, split))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_the_verbs_read_the_run(whole):
    model = api.load(whole)
    scores = api.evaluate(model, TEST)
    results = json.loads((whole / "results.json").read_text())
    assert scores["miou"] == pytest.approx(results["adapted"]["miou"])
    name, image, probs = next(iter(api.predict(model, TEST)))
    assert isinstance(name, str)
    assert probs.shape[1:] == image.shape[1:]
    assert torch.allclose(probs.sum(0), torch.ones_like(probs[0]), atol=1e-4)


def test_translated_images_take_the_place_of_the_source(tmp_path):
    scenes = SceneDataset("day", count=6, size=(32, 64))
    for index in range(6):
        write_png(scenes.image(index).flip(0), str(tmp_path / f"{Path(scenes.name(index)).name}.png"))
    plain = tiny_run(tmp_path / "plain", "source_only")
    translated = tiny_run(tmp_path / "translated", "source_only", (f"translated={tmp_path}",))
    a, b = (load_file(run / "source_model" / "model.safetensors") for run in (plain, translated))
    assert not same(a, b)
    (tmp_path / f"{Path(scenes.name(2)).name}.png").unlink()
    with pytest.raises(SegRefineryError, match=Path(scenes.name(2)).name):
        tiny_run(tmp_path / "missing", "source_only", (f"translated={tmp_path}",))


def test_merged_classes_are_merged_on_both_sides_and_in_evaluation(tmp_path):
    run = tiny_run(tmp_path / "run", "source_only", ("merge={bus: car, rider: person}",))
    model = api.load(run)
    assert "bus" not in model.space.classes
    assert api.evaluate(model, TEST)["iou"].keys() == dict.fromkeys(model.space.classes).keys()
