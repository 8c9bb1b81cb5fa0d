"""Runs: deterministic, resumable at any step, whole."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.io import write_png

import segrefinery as api
import segrefinery.engine.loop as loop
from runs import TEST, same, tiny_run, weights
from segrefinery.core.errors import OutOfMemory, SegRefineryError, explained_if_out_of_memory
from segrefinery.data.scenes import SceneDataset
from segrefinery.engine.run import plan
from segrefinery.stages.kinds import AdversarialSettings, SelfTrainingSettings


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
    monkeypatch.setattr("segrefinery.engine.finished.code_digest", lambda: "other code")
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
    with pytest.raises(SegRefineryError, match=r"other settings \(seed 3, now 5\); resume with"):
        tiny_run(whole, resume=True, seed=5)
    with pytest.raises(SegRefineryError, match=r"\(stages\.adapt\.steps 5, now 8\)"):
        tiny_run(whole, resume=True, overrides=("stages.adapt.steps=8",))
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
        assert len(files) == 13  # a label and a weight for each image, and the list of them
        assert sum(name.endswith(".weight.png") for name in files) == 6


def test_generations_are_written_out_in_order():
    settings = SelfTrainingSettings(steps=1, generations=3)
    assert list(plan({"adapt": settings})) == ["adapt-1", "adapt-2", "adapt-3"]


def test_rounds_go_on_from_one_another_and_generations_may_start_anew():
    stages = {
        "align": AdversarialSettings(steps=1, rounds=3, start="fresh"),
        "adapt": SelfTrainingSettings(steps=1, generations=2, start="fresh"),
    }
    assert [settings.start for settings in plan(stages).values()] == ["fresh", "previous", "previous", "fresh", "fresh"]


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


ALIGN = ("stages.source.steps=2", "stages.align.steps=3", "stages.align.discriminator_width=4")


@pytest.fixture
def translations(tmp_path):
    """A file with each day scene in inverted colours, and the switches of a run that reads them."""
    scenes = SceneDataset("day", count=6, size=(32, 64))
    files = [tmp_path / "there" / f"{Path(scenes.name(index)).name}.png" for index in range(6)]
    files[0].parent.mkdir()
    for index, file in enumerate(files):
        write_png(255 - scenes.image(index), str(file))
    folder = f"stages.align.translation={{kind: folder, folder: {files[0].parent}}}"
    return files, (*ALIGN, folder, "stages.align.translated_share=1")


def test_a_stages_folder_of_translations_is_trained_on_and_resumed(tmp_path, translations, monkeypatch):
    _, folder = translations
    whole = weights(tiny_run(tmp_path / "whole", "adaptsegnet", folder))
    assert not same(whole, weights(tiny_run(tmp_path / "none", "adaptsegnet", ALIGN)))
    fda = (*ALIGN, "stages.align.translation={kind: fda}", "stages.align.translated_share=1")
    assert not same(whole, weights(tiny_run(tmp_path / "fda", "adaptsegnet", fda)))
    assert same(whole, weights(tiny_run(tmp_path / "two", "adaptsegnet", (*folder, "data.workers=2"))))
    tiny_run(tmp_path / "cached", "adaptsegnet", (*folder, "data.cache=true", "data.workers=2"))

    steps, step = iter(range(100)), loop.one_step

    def mortal(*arguments):
        if next(steps) == 4:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "again", "adaptsegnet", folder)
    monkeypatch.setattr(loop, "one_step", step)
    assert same(whole, weights(tiny_run(tmp_path / "again", "adaptsegnet", folder, resume=True)))


def test_other_translations_make_it_another_stage(tmp_path, translations, monkeypatch):
    files, folder = translations
    trained, step = [], loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda *given: (trained.append(given[1]), step(*given))[1])
    tiny_run(tmp_path / "first", "adaptsegnet", folder, reuse=tmp_path / "shared")
    trained.clear()
    tiny_run(tmp_path / "second", "adaptsegnet", folder, reuse=tmp_path / "shared")
    assert not trained
    write_png(torch.zeros(3, 32, 64, dtype=torch.uint8), str(files[3]))
    tiny_run(tmp_path / "third", "adaptsegnet", folder, reuse=tmp_path / "shared")
    assert set(trained) == {"align"}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.unlink(), "1 of 6 images have no translation"),
        (lambda file: write_png(torch.zeros(3, 16, 64, dtype=torch.uint8), str(file)), "64 x 16 instead of 64 x 32"),
        (lambda file: file.parent.rename(file.parent.with_name("moved")), "is not a folder"),
    ],
)
def test_a_stages_folder_is_refused_before_anything_is_trained(tmp_path, translations, monkeypatch, spoil, told):
    files, folder = translations
    spoil(files[2])
    monkeypatch.setattr(loop, "one_step", lambda *given: pytest.fail("a step was trained"))
    with pytest.raises(SegRefineryError, match=rf"there: stages\.align\.translation\.folder: .*{told}.*; \w+"):
        tiny_run(tmp_path / "run", "adaptsegnet", folder)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_self_training_shows_the_source_in_the_targets_style(whole, tmp_path):
    styled = tiny_run(tmp_path / "styled", overrides=("stages.adapt.translation={kind: fda}",))
    assert not same(weights(whole), weights(styled))


def test_merged_classes_are_merged_on_both_sides_and_in_evaluation(tmp_path):
    run = tiny_run(tmp_path / "run", "source_only", ("merge={bus: car, rider: person}",))
    model = api.load(run)
    assert "bus" not in model.space.classes
    assert api.evaluate(model, TEST)["iou"].keys() == dict.fromkeys(model.space.classes).keys()


def test_a_stage_without_any_loss_says_so(tmp_path):
    nothing = ("stages.adapt.source_weight=0", "stages.adapt.target_weight=0")
    with pytest.raises(SegRefineryError, match=r"stage 'adapt', step 0: there is no loss.*target_weight"):
        tiny_run(tmp_path / "run", overrides=nothing)


def test_a_loss_of_weight_zero_is_left_out(tmp_path):
    run = tiny_run(tmp_path / "run", overrides=("stages.adapt.target_weight=0",))
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    adapted = [record for record in told if record["stage"] == "adapt" and record["kind"] == "train"]
    assert all("source" in record and "target" not in record for record in adapted)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_leaves_torch_as_it_was(tmp_path, wanted):
    seen = []
    tiny_run(
        tmp_path / "run", "source_only", (f"training.deterministic={wanted}",),
        progress=lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()),
    )  # fmt: skip
    assert set(seen) == {wanted} or set(seen) == {wanted, False}  # files are read before
    assert seen[-1] is wanted
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_pass_and_every_step_is_told_of(tmp_path):
    told = []
    overrides = ("stages.adapt.refine.confidence_threshold.classes=fitted", "stages.adapt.sampling=rare_class")
    tiny_run(tmp_path / "run", overrides=overrides, progress=lambda *what: told.append(what))
    ends = {name: (done, total, bool(losses)) for name, done, total, losses in told if done == total}
    assert ends["source"] == (4, 4, True)
    assert ends["adapt"] == (5, 5, True)
    assert ends["adapt: target images"] == (6, 6, False)
    assert ends["adapt: evaluation images"] == (3, 3, False)


def test_an_earlier_runs_stage_is_named(whole, tmp_path):
    said = []
    tiny_run(tmp_path / "run", overrides=("stages.adapt.steps=4",), reuse=whole, say=said.append)
    assert [line for line in said if "taken from" in line] == [
        f"note: source, step 4: taken from {whole / 'stages' / 'source' / 'result.pt'}"
    ]


def test_a_resumed_stage_is_drawn_once(tmp_path, monkeypatch):
    """What a killed run drew after its last checkpoint is purged, of that stage alone."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps, step = iter(range(100)), loop.one_step

    def mortal(*arguments):
        if next(steps) == 7:  # the fourth step of adapt, after its checkpoint at 2
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "run", overrides=("training.log_every=1",))
    monkeypatch.setattr(loop, "one_step", step)
    run = tiny_run(tmp_path / "run", overrides=("training.log_every=1",), resume=True)
    for stage, length in (("source", 4), ("adapt", 5)):
        board = EventAccumulator(str(run / "tensorboard" / stage))
        board.Reload()
        assert [event.step for event in board.Scalars("train/source")] == list(range(1, length + 1))


def test_a_model_takes_what_people_have(whole):
    model = api.load(whole, "cpu")
    tensor = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    array = tensor.permute(1, 2, 0).numpy()
    expected = model.predict(tensor)
    assert torch.equal(model.predict(array), expected)
    assert torch.equal(model.predict(Image.fromarray(array)), expected)
    for wrong in (tensor / 255, tensor[:1], array[..., :2], tensor[None], "picture.png"):
        with pytest.raises(ValueError, match="uint8 3 x H x W tensor"):
            model.predict(wrong)


def test_a_model_goes_where_it_is_told(whole, monkeypatch):
    assert next(api.load(whole, "meta").network.parameters()).device.type == "meta"
    monkeypatch.setattr("segrefinery.engine.model.default_device", lambda: torch.device("meta"))
    assert next(api.load(whole).network.parameters()).device.type == "meta"


def test_predictions_of_another_size(whole):
    name, image, probs = next(iter(api.predict(whole, TEST, factor=1.5)))
    assert (tuple(image.shape), tuple(probs.shape[1:])) == ((3, 32, 64), (48, 96))
    assert name


def test_runs_can_be_asked_for_a_protocols_classes(whole):
    everything = api.evaluate(whole, TEST)
    names = [name for name, value in everything["iou"].items() if value][:2]
    some = api.evaluate(whole, TEST, classes=names)
    assert [name for name, value in some["iou"].items() if value is not None] == names
    assert some["miou"] == pytest.approx(sum(some["iou"][name] for name in names) / 2)
    with pytest.raises(SegRefineryError, match="giraffe"):
        api.evaluate(whole, TEST, classes=["giraffe"])


def test_a_prediction_without_pixels_is_refused(whole):
    model, image = api.load(whole, "cpu"), torch.zeros(3, 20, 30, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"got torch.uint8 \(3, 0, 30\)"):
        model.predict(image[:, :0])
    with pytest.raises(ValueError, match=r"got uint8 \(3, 20, 30\)"):  # as it was given, not as it was turned
        model.predict(image.numpy())
    for size in ((0, 10), (10.5, 10), "native", (10,)):
        with pytest.raises(ValueError, match="size: height and width"):
            model.predict(image, size)


def test_a_threshold_beyond_confidence_is_refused(whole, tmp_path):
    for threshold in (2, -0.1, float("nan")):
        with pytest.raises(SegRefineryError, match="from 0 to 1"):
            api.pseudo_label(whole, TEST, tmp_path / "labels", threshold)
    assert not (tmp_path / "labels").exists()
