"""The collapse gate: what it suspects, what it keeps, and that a resumed run decides alike."""

import json

import pytest
import torch

import segrefinery.engine.gate as gate
import segrefinery.engine.loop as loop
from runs import same, tiny_run, weights
from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.checkpoints import Checkpoints
from segrefinery.engine.gate import Collapse, suspicions
from segrefinery.models import Prediction
from segrefinery.stages.watch import WINDOW, LabelWatch
from toys import ToySegmenter


def watch(early, late, agreement=0.8, best=0.8, source=None):
    seen = LabelWatch(len(early))
    seen.early.copy_(torch.tensor(early))
    seen.late.copy_(torch.tensor(late))
    seen.source.copy_(torch.tensor(source or early))
    seen.agreement.fill_(agreement)
    seen.best.fill_(best)
    seen.steps.fill_(100)
    return seen


def said(logits):
    return Prediction(logits, logits)


EVEN = [0.25, 0.25, 0.25, 0.25]


def test_what_is_suspicious():
    assert suspicions(watch(EVEN, [0.3, 0.2, 0.2, 0.3])) == []
    assert "2 of 4 classes have vanished" in suspicions(watch(EVEN, [0.5, 0.5, 0.0, 0.0]))[0]
    assert any("one class fills 95 %" in text for text in suspicions(watch(EVEN, [0.95, 0.02, 0.02, 0.01])))
    assert any("moved" in text for text in suspicions(watch([0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7])))
    assert any("agrees with 30 %" in text for text in suspicions(watch(EVEN, EVEN, agreement=0.3)))


def test_a_class_the_source_lacks_cannot_die_and_a_start_is_given_time():
    assert suspicions(watch(EVEN, [0.5, 0.5, 0.0, 0.0], source=[0.5, 0.5, 0.0, 0.0])) == []
    young = watch(EVEN, [1.0, 0.0, 0.0, 0.0])
    young.steps.fill_(2 * WINDOW - 1)
    assert suspicions(young) == []


def test_running_means_by_hand():
    seen = LabelWatch(2)
    probs = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    label = torch.tensor([[[0, 0, 1, 255]] * 4])
    learned = torch.ones(1, 4, 4, dtype=torch.bool)
    seen.see(
        probs,
        label,
        said(torch.tensor([3.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)),
        label.masked_fill(~learned, 255),
    )
    assert seen.late.tolist() == [1, 0]
    assert seen.source.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert float(seen.agreement) == pytest.approx(2 / 3)
    seen.see(probs.flip(1), label, said(torch.zeros(1, 2, 4, 4)), torch.full_like(label, 255))
    assert seen.late.tolist() == [0.5, 0.5]
    assert float(seen.agreement) == pytest.approx(2 / 3)  # nothing was learned, so nothing was said
    for _ in range(5 * WINDOW):
        seen.see(probs, label, said(torch.zeros(1, 2, 4, 4)), label.masked_fill(~learned, 255))
    assert float(seen.late[0]) > 0.99
    assert float(seen.early[0]) == pytest.approx((WINDOW - 1) / WINDOW)


def good_checkpoints(run):
    return sorted((run / "checkpoints").glob("*.good-*.pt"))


def test_a_pinned_checkpoint_outlives_rotation(tmp_path):
    checkpoints, model = Checkpoints(tmp_path, "adapt", keep=1), ToySegmenter()
    for step in (0, 10, 20):
        checkpoints.pin(step)
        checkpoints.save(step, model, {})
    checkpoints.pin(25)
    for step in (30, 40):
        checkpoints.save(step, model, {})
    assert [path.name for path in checkpoints.paths()] == ["adapt-0000020.pt", "adapt-0000040.pt"]
    checkpoints.set_aside()
    checkpoints.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["adapt.good-0000020.pt"]


@pytest.fixture
def suspicious(monkeypatch):
    """A gate that suspects self-training from its fourth step on."""
    monkeypatch.setattr(gate, "suspicions", lambda seen: ["made up"] if float(seen.steps) >= 4 else [])


OPTIONS = ("training.checkpoint_every=1", "training.log_every=2", "training.keep=1", "stages.adapt.steps=8")


def warnings(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "warning"]


def test_a_suspicion_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "suspicions", lambda watch: ["the labels turn to mud"])
    said = []
    tiny_run(tmp_path / "run", say=said.append)
    assert "warning: adapt, step 2: the labels turn to mud" in said


def test_warn_changes_nothing_but_keeps_the_good_checkpoint(tmp_path, monkeypatch):
    plain = tiny_run(tmp_path / "plain", overrides=OPTIONS)
    monkeypatch.setattr(gate, "suspicions", lambda seen: ["made up"] if float(seen.steps) >= 4 else [])
    warned = tiny_run(tmp_path / "warned", overrides=OPTIONS)
    assert same(weights(plain), weights(warned))
    assert [(each["stage"], each["step"], each["action"]) for each in warnings(warned)] == [("adapt", 4, "warn")]
    assert [path.name for path in good_checkpoints(warned)] == ["adapt.good-0000001.pt"]
    assert good_checkpoints(plain) == []


@pytest.mark.usefixtures("suspicious")
def test_rollback_ends_at_the_good_checkpoint(tmp_path):
    back = tiny_run(tmp_path / "back", overrides=(*OPTIONS, "training.on_collapse=rollback"))
    warned = tiny_run(tmp_path / "warned", overrides=OPTIONS)
    kept = torch.load(good_checkpoints(warned)[0], weights_only=True)["module"]
    assert all(torch.equal(kept[f"model.{name}"], value) for name, value in weights(back).items())
    assert warnings(back)[0]["good_checkpoint"] == "adapt-0000001.pt"


@pytest.mark.usefixtures("suspicious")
def test_stop_says_what_and_where(tmp_path):
    with pytest.raises(Collapse, match="stage 'adapt', step 4: made up"):
        tiny_run(tmp_path / "run", overrides=(*OPTIONS, "training.on_collapse=stop"))
    assert (tmp_path / "run" / "checkpoints" / "adapt-0000001.pt").exists()


@pytest.mark.usefixtures("suspicious")
@pytest.mark.parametrize("dies_at", [5, 7])
def test_a_resumed_run_rolls_back_alike(tmp_path, monkeypatch, dies_at):
    options = (*OPTIONS, "training.on_collapse=rollback")
    whole = tiny_run(tmp_path / "whole", overrides=options)
    steps, step = iter(range(100)), loop.one_step

    def mortal(*given):
        if next(steps) == dies_at:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run", overrides=options)
    monkeypatch.setattr(loop, "one_step", step)
    run = tiny_run(tmp_path / "run", overrides=options, resume=True)
    assert same(weights(whole), weights(run))
    assert len(warnings(run)) == 1


def test_a_loss_that_is_not_finite_can_be_rolled_back(tmp_path, monkeypatch):
    step = loop.one_step

    def broken(fabric, name, stage, trained, settings, number, *rest):
        if name == "adapt" and number == 5:
            raise loop.NonFiniteLoss("the loss is not finite. Lower the learning rate")
        return step(fabric, name, stage, trained, settings, number, *rest)

    monkeypatch.setattr(loop, "one_step", broken)
    with pytest.raises(SegRefineryError, match="not finite"):
        tiny_run(tmp_path / "warn", overrides=OPTIONS)
    back = tiny_run(tmp_path / "back", overrides=(*OPTIONS, "training.on_collapse=rollback"))
    assert warnings(back)[0]["text"] == "the loss is not finite"
    assert (back / "model").exists()
