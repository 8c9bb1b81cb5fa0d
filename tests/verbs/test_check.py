"""``check``: what it finds and how that is shown, what it makes of problems, and how the cost is worked out."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from models.foreign.tiny import saved
from runs import command, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.segmenter import Prediction
from segrefinery.recipe import load_recipe
from segrefinery.terminal import duration, show_checkup, show_estimate, size
from segrefinery.verbs import cost as costs
from segrefinery.verbs.check import check
from segrefinery.verbs.cost import Cost, step_bytes, step_seconds, timed_pass

DAY, NIGHT = "scenes:day,count=3,size=32x64", "scenes:night,count=3,size=32x64"


def printed(*arguments, **options) -> tuple[bool, str]:
    written = io.StringIO()
    source, target, *evaluation = arguments
    found = check(source, target, evaluation=evaluation[0] if evaluation else None, scale="small", **options)
    show_checkup(Console(file=written, width=140), found)
    return found.ok, written.getvalue()


def test_a_healthy_plan_shows_data_classes_and_cost():
    seen = []
    test = "scenes:night,count=2,size=32x64@test"
    healthy, text = printed(DAY, NIGHT, test, progress=lambda done, total: seen.append((done, total)))
    assert healthy
    for part in (DAY, NIGHT, test, "64x32", "road", "bicycle", "Cost of self_training", "source", "adapt", "iB"):
        assert part in text
    assert seen == sorted(seen)
    assert seen[-1] == (8, 8)


def test_an_error_is_told_with_its_remedy_and_is_not_healthy():
    healthy, text = printed(DAY, DAY)
    assert not healthy
    assert "error target" in text
    assert "name other images as the target" in text


def test_an_unknown_recipe_or_data_set_is_the_users_error():
    with pytest.raises(SegRefineryError, match="unknown recipe"):
        printed(DAY, NIGHT, recipe="self_trainin")
    with pytest.raises(SegRefineryError):
        printed("/nowhere/at/all", NIGHT)


def test_a_network_that_cannot_run_costs_only_the_estimate(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(costs, "measure", fail)
    healthy, text = printed(DAY, NIGHT)
    assert healthy
    assert "not known: a pass of the network failed (out of memory)" in text


def test_smaller_budgets_are_named_where_a_run_takes_longer_than_a_day(monkeypatch):
    cost = Cost(seconds=60.0, activations=1000, parameters=10, timed=(2, 64, 64), device=torch.device("cpu"))
    monkeypatch.setattr(costs, "measure", lambda *_: cost)
    for scale, named in ((None, True), ("small", False)):
        checkup = check(DAY, NIGHT, recipe="dinov2", scale=scale)
        console = Console(file=io.StringIO(), width=200)
        show_checkup(console, checkup)
        assert ("smaller budget: --scale small, gpu_8gb" in console.file.getvalue()) is named, scale


def test_the_first_pass_does_not_count_and_a_busy_machine_is_said(monkeypatch):
    times = iter([9.0, 1.0, 3.0, 2.0, 9.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(costs, "PATIENCE", 14.0)
    monkeypatch.setattr(costs, "timed_pass", lambda *_: (next(times), 7))
    assert costs.typical_pass(nn.Identity(), (1, 8, 8), 2, torch.device("cpu"), bf16=False) == (2.0, 7)
    monkeypatch.undo()
    recipe = load_recipe("source_only", "small", ["model.name=small", "data.crop=[32, 48]"])
    for free, busy in ((0, True), (10**6, False)):
        monkeypatch.setattr(costs, "free_cores", lambda free=free: free)
        estimate = costs.estimate_cost(recipe, 3)
        assert estimate.busy is busy
        console = Console(file=io.StringIO(), width=200)
        show_estimate(console, "x", estimate)
        assert ("Others work on these cores" in console.file.getvalue()) is busy


def test_cost_of_a_stage_by_hand():
    recipe = load_recipe("self_training", "small", ["data.batch=8", "stages.source.batch=16"])
    cost = Cost(seconds=3.0, activations=1000, parameters=10, timed=(8, 96, 128), device=torch.device("cpu"))
    source, adapt = recipe.stages["source"], recipe.stages["adapt"]
    assert step_seconds(cost, source, recipe) == pytest.approx(6.0)  # twice the batch
    assert step_seconds(cost, adapt, recipe) == pytest.approx(7.0)  # source, target, and the teacher's third
    masked = load_recipe("mic", "small", ["data.batch=8"]).stages["adapt"]
    assert step_seconds(cost, masked, recipe) == pytest.approx(11.0)  # masked images, and the encoder of old
    assert step_bytes(cost, source, recipe) == 4 * 4 * 10 + 2000  # weights, gradients, two moments
    assert step_bytes(cost, adapt, recipe) == 4 * 5 * 10 + 1000  # and a teacher


def test_activations_are_what_the_backward_pass_keeps():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, image):
            logits = (image[:, :2] * self.scale) ** 2
            return Prediction(logits, logits)

    seconds, kept = timed_pass(Square(), (1, 16, 32), 2, torch.device("cpu"), bf16=False)
    pixels = 16 * 32
    # the image (3 channels), its product with the scale (2) and the loss's gradient (2)
    at_least = 4 * pixels * (3 + 2 + 2)
    assert seconds > 0
    assert at_least <= kept <= at_least + 4 * pixels * 5


def test_durations_and_sizes_read_well():
    assert [duration(s) for s in (0.0712, 30, 600, 7200, 300_000)] == ["0.071 s", "30 s", "10 min", "2 h", "3.5 days"]
    assert [size(b) for b in (5 * 2**20, 3 * 2**29)] == ["5 MiB", "1.5 GiB"]


# -- from a model ------------------------------------------------------------------------------------------------------


def test_a_model_is_checked_with_its_target_alone(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    saved(tmp_path, "segformer", labels=("road", "zebra", "sky"))
    capsys.readouterr()  # what the library said while it saved
    code, said, error = command(
        monkeypatch, capsys, "check", NIGHT, "--from", tmp_path, "-e", NIGHT + "@test", "--scale", "small",
        "--set=data.crop=[32, 48]", "--set=target_data.crop=[32, 48]", "--recipe=source_free",
    )  # fmt: skip
    assert (code, error) == (0, "")
    for part in ("transformers:segformer, 3 classes", "source: falls away", "zebra", "Cost of source_free", "adapt"):
        assert part in said
    assert "source  " not in said.partition("Data")[2].partition("classes")[0]
    assert "Share of the pixels" in said


def test_no_labels_have_no_shares(monkeypatch, capsys, tmp_path):
    pytest.importorskip("transformers")
    saved(tmp_path, "segformer")
    sets = ("--set=data.crop=[32, 48]", "--set=target_data.crop=[32, 48]")
    code, said, _ = command(monkeypatch, capsys, "check", NIGHT, "--from", tmp_path, "--scale", "small", *sets)
    assert (code, "Share of the pixels" in said, "Cost of" in said) == (0, False, True)


def test_a_model_with_other_classes_is_an_error_of_the_model(tmp_path):
    pytest.importorskip("transformers")
    saved(tmp_path, "segformer", labels=("liver", "heart", "bone"))
    found = check(DAY, NIGHT, start=tmp_path, scale="small")
    assert not found.ok
    assert str(found.data.problems[0]).startswith(f"model: {tmp_path}: classes: none of its classes")


def test_a_model_of_one_classifier_is_an_error_where_two_are_compared(tmp_path):
    pytest.importorskip("transformers")
    saved(tmp_path, "segformer", labels=("road", "car", "sky"))
    sets = ("classes=[road, car, sky]", "data.crop=[32, 48]", "target_data.crop=[32, 48]")
    found = check(DAY, NIGHT, start=tmp_path, recipe="uncerda", scale="small", overrides=sets)
    assert not found.ok
    problem = str(found.data.problems[0])
    assert "adapt.target_loss: compares the two classifiers of a network, and transformers:segformer has one" in problem


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((NIGHT,), "--source, or a trained model to adapt with --from"),
        ((NIGHT, "--from", "nowhere"), "nowhere: there is no such model"),
        ((DAY, NIGHT, NIGHT), "name a source and a target, not 3"),
    ],
)
def test_what_cannot_be_checked_is_one_line(monkeypatch, capsys, words, match):
    code, _, error = command(monkeypatch, capsys, "check", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert match in error


def test_weights_of_unknown_classes_are_an_error_of_the_model(tmp_path):
    settings = ModelSettings(name="small", options={"width": 16, "blocks": 1}, weights="none")
    save_file(build_model(settings, 3).state_dict(), tmp_path / "w.safetensors")
    for weights, said in (
        (tmp_path / "w.safetensors", "nothing says what its classes are"),
        (tmp_path, "name a file in"),
    ):
        overrides = ("model.name=small", "model.options={width: 16, blocks: 1}", f"model.weights={weights}")
        found = check(DAY, NIGHT, scale="small", overrides=overrides)
        assert (found.ok, said in str(found.data.problems[0])) == (False, True), found.data.problems
        assert str(found.data.problems[0]).startswith(f"model: {weights}: model.weights: ")


def test_a_window_that_does_nothing_is_said(tmp_path):
    read_as_it_is = ("data.short_side=32", "target_data.short_side=32")
    found = check(DAY, NIGHT, scale="small", overrides=("window=[32, 64]", *read_as_it_is))
    said = "a window of 32x64 does nothing for an image of 64 x 32"
    assert [said in problem.message for problem in found.data.problems if problem.field == "window"] == [True]
    smaller = check(DAY, NIGHT, scale="small", overrides=("window=[32, 32]", *read_as_it_is))
    assert not [problem for problem in smaller.data.problems if problem.field == "window"]
    with pytest.warns(UserWarning, match="a window of 32x64 does nothing for an image of 64 x 32"):
        tiny_run(tmp_path / "run", "source_only", ("window=[32, 64]",))
