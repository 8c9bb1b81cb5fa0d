"""torch.compile around the networks: the same training, the same states, and only where it was asked for."""

import copy

import pytest
import torch
from torch import nn

from runs import same, tiny_run, weights
from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.compilation import compile_networks, uncompiled
from segrefinery.models.hrda import HRDA, HRDASettings
from segrefinery.models.teacher import Teacher
from toys import ToySegmenter


def test_the_innermost_networks_are_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(ToySegmenter, "compile", lambda self, **options: compiled.append((self, options)))
    monkeypatch.setattr(HRDA, "compile", lambda *_, **options: pytest.fail("the wrapper was compiled"))
    student = HRDA(ToySegmenter(), HRDASettings(detail=16, divisor=8, attention_width=8))
    stage = nn.ModuleDict({"model": student, "teacher": Teacher(student)})
    compile_networks(stage, None)
    assert compiled == []
    compile_networks(stage, "eager")
    assert [one for one, _ in compiled] == [student.segmenter, stage["teacher"].network.segmenter]
    assert all(options == {"backend": "eager"} for _, options in compiled)


def test_a_compiled_network_keeps_its_state_and_its_copies():
    calls = []

    def counting(graph, inputs):
        return lambda *values: calls.append(len(inputs)) or graph(*values)

    network = ToySegmenter()
    names, image = list(network.state_dict()), torch.randn(1, 3, 8, 8)
    expected = network(image).logits
    compile_networks(nn.ModuleDict({"model": network}), counting)  # torch takes a function as well as a name
    assert list(network.state_dict()) == names
    assert torch.equal(network(image).logits, expected)
    assert len(calls) == 1
    assert torch.equal(copy.deepcopy(network)(image).logits, expected)
    with uncompiled("eager"):
        assert torch.equal(network(image).logits, expected)
    assert len(calls) == 1


def test_a_compiled_run_trains_the_same_weights(tmp_path, monkeypatch):
    """torch's backend ``eager`` traces the networks and runs what was written."""
    plain = tiny_run(tmp_path / "plain")
    compiled, original = [], nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: compiled.append(self) or original(self, **options)
    )
    traced = tiny_run(tmp_path / "compiled", overrides=("training.compile=eager", "training.look_every=2"))
    assert len(compiled) == 3  # the source's student, then student and teacher
    assert same(weights(plain), weights(traced))


def test_an_unknown_backend_is_refused_before_training(tmp_path):
    with pytest.raises(SegRefineryError, match=r"unknown training\.compile 'inductr'\. Did you mean 'inductor'"):
        tiny_run(tmp_path / "run", overrides=("training.compile=inductr",))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_network_that_cannot_be_compiled_is_said_and_runs_as_it_was_written(caplog):
    def failing(graph, inputs):
        raise RuntimeError("no C++ compiler here\nand a long story")

    network = ToySegmenter()
    image = torch.randn(1, 3, 8, 8)
    expected = network(image).logits
    compile_networks(nn.ModuleDict({"model": network}), failing)  # pyright: ignore[reportArgumentType]
    for _ in range(2):
        assert torch.equal(network(image).logits, expected)
    (line,) = (line for line in caplog.messages if line.startswith("training.compile"))
    assert "ToySegmenter, which runs as it was written from now on" in line
    assert "no C++ compiler here" in line
    assert "\n" not in line


def test_a_mistake_in_a_network_is_no_failure_of_its_compiler():
    network = ToySegmenter()
    compile_networks(nn.ModuleDict({"model": network}), "eager")
    with pytest.raises(RuntimeError):
        network(torch.randn(1, 4, 8, 8))
