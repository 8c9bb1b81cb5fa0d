"""Two processes on one batch do what one process does; they agree, and resume exactly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runs import DAY, NIGHT, TEST, TINY
from segrefinery.engine.ranks import average_state, share_memories
from segrefinery.evaluation.results import per_image_counts
from segrefinery.evaluation.trust import Observation
from segrefinery.refine.self_labeling.bank import FeatureBank

BASE = (*TINY, "model.options.dropout=0.0", "stages.source.steps=3")
PLAIN = "stages.adapt.refine={confidence_threshold: {classes: fitted, portion: 0.5}}"
"""Thresholds that do not depend on what a process sees of the batch."""
BANK = "{self_labeling: {samples: 16, bank: 256, soft_labels: chain}, confidence_threshold: {classes: running}}"


def command(output: Path, recipe: str, overrides: tuple[str, ...], *options: str) -> list[str]:
    given = [part for override in (*BASE, *overrides) for part in ("--set", override)]
    return [
        "-m", "segrefinery", "adapt", "-s", DAY, "-t", NIGHT, "-o", str(output), "-r", recipe, "--scale", "small",
        "--seed", "3", *given, *options,
    ]  # fmt: skip


def environment(**values: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **values}


def start(arguments: list[str]) -> list[subprocess.Popen]:
    """What torchrun starts on one machine, without its agent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **group),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> None:
    """Wait for all of them; when one fails, end the others, which may wait for it."""
    with ThreadPoolExecutor(len(processes)) as readers:
        said = [readers.submit(process.communicate) for process in processes]
        end, codes = time.monotonic() + 600, [None]
        while None in codes and not any(codes) and time.monotonic() < end:
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
    assert codes == [0] * len(processes), "\n".join(each.result()[0] for each in said)


def losses(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("source", "source_aux", "target", "target_aux")
    return [
        {"stage": line["stage"], "step": line["step"], **{name: line[name] for name in names if name in line}}
        for line in lines if line["kind"] == "train"
    ]  # fmt: skip


def result(run: Path, stage: str) -> dict[str, torch.Tensor]:
    state = torch.load(run / "stages" / stage / "result.pt", weights_only=True)
    return state["model"] | {f"{part}.{k}": v for part, values in state["handed_on"].items() for k, v in values.items()}


def test_two_processes_do_what_one_does(tmp_path):
    """Supervised training, then self-training, as torchrun starts it."""
    overrides, evaluated = (
        ("stages.adapt.steps=4", PLAIN, "training.log_every=1", "training.look_every=2"),
        ("-e", TEST),
    )
    one = subprocess.Popen(
        [sys.executable, *command(tmp_path / "one", "self_training", overrides, *evaluated)], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    finish([one])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.Popen(
        [sys.executable, *launcher, *command(tmp_path / "two", "self_training", overrides, *evaluated)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    finish([two])
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [line["stage"] for line in alone] == ["source"] * 3 + ["adapt"] * 4
    for own, other in zip(alone, together, strict=True):
        assert own.pop("stage") == other.pop("stage")
        assert other == pytest.approx(own, rel=1e-4)
    for model in ("source_model", "model"):
        a, b = (load_file(tmp_path / run / model / "model.safetensors") for run in ("one", "two"))
        for name in a:
            # Adam moves a weight by a rate whatever its gradient, so a gradient of rounding alone may differ.
            torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=4e-4)
    assert sorted(path.name for path in (tmp_path / "two" / "stages").iterdir()) == ["adapt", "source"]
    assert (tmp_path / "two" / "report.html").exists()
    for stage in ("source", "adapt"):  # the images that score are shared as well
        a, b = (per_image_counts(tmp_path / run, stage) for run in ("one", "two"))
        assert torch.equal(a.sum(dim=2), b.sum(dim=2))  # of each image's labels
        assert (a - b).abs().sum() < 0.01 * a.sum()
        looks = [Observation.load(tmp_path / run / "trust" / f"{stage}.npz") for run in ("one", "two")]
        assert looks[0].names == looks[1].names
        torch.testing.assert_close(looks[1].probs, looks[0].probs, rtol=0, atol=0.01)


STATEFUL = ("stages.adapt.steps=12", f"stages.adapt.refine={BANK}", "training.checkpoint_every=3")
"""With state that follows each process's own images: running thresholds and a memory of pixels."""


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("distributed") / "whole"
    finish(start(command(run, "self_training", STATEFUL)))
    return run


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def same_weights(one: Path, other: Path) -> bool:
    results = [(result(one, stage), result(other, stage)) for stage in ("source", "adapt")]
    return all(torch.equal(a[name], b[name]) for a, b in results for name in a)


@pytest.mark.slow
def test_two_processes_resume_exactly(left_alone, tmp_path):
    """One is killed, which ends the other with a line."""
    run = tmp_path / "killed"
    processes = start(command(run, "self_training", STATEFUL))
    wait_for(lambda: list((run / "checkpoints").glob("adapt-0000003.pt")))
    processes[1].send_signal(signal.SIGKILL)
    said, _ = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2, said
    assert [line for line in said.splitlines() if "error" in line.lower()] == [
        "error: another process of this run has ended; it has said why, or was killed; go on with --resume"
    ]
    processes[1].communicate()
    finish(start(command(run, "self_training", STATEFUL, "--resume")))
    assert same_weights(left_alone, run)


@pytest.mark.slow
def test_a_slower_process_is_waited_for(left_alone, tmp_path):
    """Stopped for three quarters of the time, as on a machine that others use."""
    run = tmp_path / "slow"
    processes = start(command(run, "self_training", STATEFUL))
    wait_for(lambda: list((run / "checkpoints").glob("adapt-0000003.pt")))
    while processes[1].poll() is None and not (run / "stages" / "adapt" / "result.pt").exists():
        for sign, seconds in ((signal.SIGSTOP, 0.3), (signal.SIGCONT, 0.1)):
            processes[1].send_signal(sign)
            time.sleep(seconds)
    finish(processes)
    assert same_weights(left_alone, run)


@pytest.mark.slow
def test_a_process_that_stops_ends_the_others_by_name(tmp_path):
    """The second, and the first, which holds the store through which they tell that they are alive."""
    endless = ("stages.adapt.steps=5000", *STATEFUL[1:])  # the second pair is not to end while the first is waited for
    pairs = [start(command(tmp_path / f"without_{late}", "self_training", endless)) for late in (0, 1)]
    for late, pair in enumerate(pairs):
        wait_for(lambda late=late: list((tmp_path / f"without_{late}" / "checkpoints").glob("adapt-*.pt")))
        pair[late].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    for late, name in enumerate(("the first process", "process 1")):
        said, _ = pairs[late][1 - late].communicate(timeout=120)
        assert pairs[late][1 - late].returncode == 2, said
        assert f"error: {name} of this run has not answered for 45 seconds" in said
        pairs[late][late].kill()
        pairs[late][late].communicate()
    assert time.monotonic() - stopped < 75


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_goes_on_by_itself(left_alone, tmp_path):
    run = tmp_path / "restarted"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    agent = subprocess.Popen(
        [sys.executable, *launcher, *command(run, "self_training", STATEFUL)], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(lambda: list((run / "checkpoints").glob("adapt-0000003.pt")))
    os.kill(int((run / ".lock").read_text()), signal.SIGKILL)  # the first process holds the folder
    said, _ = agent.communicate(timeout=300)
    assert agent.returncode == 0, said
    assert "goes on with the run" in said
    assert same_weights(left_alone, run)


class Pair:
    """Stands for rank 0 of two whose other rank is told by ``other``: a function of what rank 0 sends."""

    world_size = 2
    device = torch.device("cpu")

    def __init__(self, other):
        self.other = other

    def all_reduce(self, values, reduce_op):
        assert reduce_op == "mean"
        return (values + self.other(values)) / 2

    def broadcast(self, value):
        return value


def test_gradients_travel_in_buckets_as_they_do_one_by_one():
    finish(start([str(Path(__file__).with_name("two_ranks.py"))]))


def test_running_averages_are_averaged_and_memories_are_not():
    module = torch.nn.Module()
    module.register_buffer("share", torch.tensor([0.0, 1.0]))
    module.register_buffer("counts", torch.tensor([1.0, 3.0], dtype=torch.float64))
    module.register_buffer("steps", torch.tensor(7))
    module.bank = FeatureBank(4, 2)
    module.bank.push(torch.ones(3, 2))
    pair = Pair(lambda values: values + 1)
    average_state(pair, module)  # pyright: ignore[reportArgumentType]
    assert module.share.tolist() == [0.5, 1.5]
    assert module.counts.tolist() == [1.5, 3.5]
    assert int(module.steps) == 7
    assert module.bank.rows.sum() == 6
    share_memories(pair, module)  # pyright: ignore[reportArgumentType]
    assert module.bank.rows.sum() == 6
