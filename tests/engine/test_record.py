"""What a run folder holds fits what goes on in it: one writer, the same data, files that are whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import segrefinery
from runs import DAY, NIGHT, TINY, same, tiny_run, weights
from segrefinery.core.errors import SegRefineryError
from segrefinery.engine import evaluator, loop
from segrefinery.engine.checkpoints import Checkpoints, load_safely, save_state
from segrefinery.engine.model import load
from segrefinery.engine.record import the_only_writer
from segrefinery.engine.tracker import Tracker
from segrefinery.evaluation.trust.collect import Observation
from segrefinery.models.segmenter import Segmenter

HOLDS = """
import sys, time
from pathlib import Path
from segrefinery.engine.record import the_only_writer
with the_only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("run") / "whole")


def test_a_second_writer_is_told_who_the_first_is_and_a_dead_one_blocks_nobody(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SegRefineryError, match=f"process {holder.pid} is writing"):
            tiny_run(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        holder.send_signal(signal.SIGKILL)
    with the_only_writer(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_forked_process_that_outlives_its_parent_holds_no_lock(tmp_path):
    told, tell = os.pipe()
    with the_only_writer(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(tell, b"forked")
            signal.pause()
        os.read(told, 6)
    try:
        with the_only_writer(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def masked(folder, count):
    """Labelled images of three classes, and their description."""
    for place in range(count):
        pixels = np.random.default_rng(place).integers(0, 255, (32, 64, 3), dtype=np.uint8)
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{place}.png")
        Image.fromarray(pixels[..., 0] % 3).save(folder / "masks" / f"{place}.png")
    described(folder, "sky, road, car")
    return folder


def described(folder, names):
    text = f"images: images/*.png\nmasks: masks/{{name}}.png\nclasses: [{names}]\n"
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")


def adapted(source, target, run, **options):
    overrides = (*TINY, "stages.source.steps=2", "stages.adapt.steps=2")
    return segrefinery.adapt(
        "self_training", f"folder:{source}", str(target / "images"), run, scale="small", overrides=overrides, **options
    )


def test_data_that_changed_are_named(tmp_path):
    source, target = masked(tmp_path / "source", 4), masked(tmp_path / "target", 3)
    run = adapted(source, target, tmp_path / "run")
    before = weights(run)
    shutil.copyfile(target / "images" / "0.png", target / "images" / "9.png")
    with pytest.raises(SegRefineryError, match=r"changed since the run began: the target images.*--reuse"):
        adapted(source, target, run, resume=True)
    (target / "images" / "9.png").unlink()
    assert same(before, weights(adapted(source, target, run, resume=True)))
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(source / "masks" / "0.png")
    with pytest.raises(SegRefineryError, match="changed since the run began: the source images"):
        adapted(source, target, run, resume=True)


def test_reordered_classes_are_named(tmp_path):
    source, target = masked(tmp_path / "source", 4), masked(tmp_path / "target", 3)
    run = adapted(source, target, tmp_path / "run")
    described(source, "car, road, sky")
    with pytest.raises(SegRefineryError, match="the classes or their order"):
        adapted(source, target, run, resume=True)
    other = adapted(source, target, tmp_path / "other", reuse=run)
    assert "taken from" not in (other / "metrics.jsonl").read_text()
    assert load(other).space.classes == ("car", "road", "sky")


def test_a_result_of_other_data_is_refused_even_without_a_record(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    result = run / "stages" / "source" / "result.pt"
    save_state(load_safely(result) | {"key": "other"}, result)
    with pytest.raises(SegRefineryError, match=r"result\.pt: was trained on other data.*--reuse"):
        tiny_run(run, resume=True)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    module = torch.nn.Linear(2, 2)
    Checkpoints(tmp_path, "adapt", key="one").save(3, module, {})  # pyright: ignore[reportArgumentType]
    assert Checkpoints(tmp_path, "adapt", key="one").restore(module, {}) == 3
    with pytest.raises(SegRefineryError, match=r"was written with other data"):
        Checkpoints(tmp_path, "adapt", key="two").restore(module, {})


def test_a_flipped_bit_in_a_result_is_noticed(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    result = run / "stages" / "source" / "result.pt"
    content = bytearray(result.read_bytes())
    tensor = next(iter(load_safely(result)["model"].values())).numpy().tobytes()
    place = content.find(tensor)
    assert place > 0
    content[place + len(tensor) // 2] ^= 1
    result.write_bytes(content)
    with pytest.raises(SegRefineryError, match=r"result\.pt: (is damaged|not a checkpoint)"):
        tiny_run(run, resume=True)


def test_another_number_of_threads_is_said_and_the_first_record_stays(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    record = run / "environment.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"torch_threads": 64}))
    said = []
    tiny_run(run, resume=True, say=said.append)
    assert any(re.search("began with threads 64 and goes on with", line) for line in said)
    assert json.loads(record.read_text())["torch_threads"] == 64


def test_remains_of_killed_writers_are_swept(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "stages" / ".writing-0123456789ab.tmp").write_bytes(b"half")
    tiny_run(run, resume=True)
    assert not list(run.rglob("*.tmp"))


def test_an_empty_file_of_counts_is_named(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "results.json").write_bytes(b"\xff")
    with pytest.raises(SegRefineryError, match=r"results\.json: cannot be read"):
        tiny_run(run, resume=True)


def test_an_oracle_that_nobody_needs_is_said(tmp_path):
    said = []
    tiny_run(tmp_path / "run", "source_only", oracle=NIGHT, say=said.append)
    assert any(line.startswith("warning: --oracle") and "not used" in line for line in said)


def test_adapt_writes_the_report(whole):
    assert (whole / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert DAY in (whole / "report.html").read_text(encoding="utf-8")


def test_a_model_in_the_first_format_is_read(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    path = run / "model" / "config.json"
    content = json.loads(path.read_text())
    network = {key: content.pop(key) for key in ("model", "space", "classes", "colors")}
    path.write_text(json.dumps({"format": 1, **network, "extra": {k: v for k, v in content.items() if k != "format"}}))
    old, new = load(run), load(whole)
    assert isinstance(old.segmenter, Segmenter)
    assert (old.data, old.window, old.merge, old.space) == (new.data, new.window, new.merge, new.space)
    assert same(old.network.state_dict(), new.network.state_dict())


def records(run):
    return re.sub(r', "seconds_per_step": [0-9.e-]+', "", (run / "metrics.jsonl").read_text())


def dies_in(monkeypatch, where, name):
    """A function that ends its caller the first time, as a kill does; later it is itself."""
    original, calls = getattr(where, name), []

    def call(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(where, name, call)


@pytest.mark.parametrize(
    ("where", "name"), [(Checkpoints, "clear"), (Observation, "save"), (evaluator, "keep_evaluation")]
)
def test_a_run_that_is_killed_between_two_files_leaves_what_others_leave(whole, tmp_path, monkeypatch, where, name):
    dies_in(monkeypatch, where, name)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run")
    run = tiny_run(tmp_path / "run", resume=True)
    assert records(run) == records(whole)
    assert not any((run / "checkpoints").iterdir())
    assert not any((whole / "checkpoints").iterdir())


def test_a_verdict_that_was_kept_and_not_recorded_is_recorded(whole, tmp_path, monkeypatch):
    write = Tracker.write

    def mortal(tracker, stage, step, kind, values):
        if kind == "verdict":
            raise KeyboardInterrupt
        write(tracker, stage, step, kind, values)

    monkeypatch.setattr(Tracker, "write", mortal)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run")
    monkeypatch.undo()
    assert "verdict" in json.loads((tmp_path / "run/results.json").read_text())
    assert records(tiny_run(tmp_path / "run", resume=True)) == records(whole)


def test_what_labels_made_before_the_first_step_say_is_not_forgotten(tmp_path, monkeypatch):
    overrides = ("stages.adapt.labels=offline", "stages.source.steps=2", "stages.adapt.steps=2")
    whole = tiny_run(tmp_path / "whole", overrides=overrides)
    assert '"step": 0, "kind": "train", "label_weight"' in records(whole)
    one_step = loop.one_step

    def mortal(fabric, stage, *arguments):
        if stage == "adapt":
            raise KeyboardInterrupt
        return one_step(fabric, stage, *arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run", overrides=overrides)
    monkeypatch.undo()
    assert records(tiny_run(tmp_path / "run", overrides=overrides, resume=True)) == records(whole)


def test_a_line_that_was_cut_short_takes_no_other_with_it(tmp_path):
    tracker = Tracker(tmp_path, tensorboard=False)
    tracker.write("a", 1, "note", {"text": "one"})
    with open(tracker.path, "a") as file:
        file.write('{"stage": "a", "st')
    Tracker(tmp_path, tensorboard=False).write("a", 2, "note", {"text": "two"})
    assert [json.loads(line)["text"] for line in tracker.path.read_text().splitlines()] == ["one", "two"]
