"""Checkpoints: whole or absent, safe to load, exact."""

import os
import pickle

import pytest
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.checkpoints import FORMAT, Checkpoints, load_safely, save_state
from segrefinery.stages.optimizers import OptimizerSettings, build_optimizer, parameter_groups
from toys import ToySegmenter


def trained_toy(seed: int = 0):
    torch.manual_seed(seed)
    model = ToySegmenter()
    settings = OptimizerSettings()
    trained = {"model": build_optimizer(parameter_groups(model, settings), settings, 10)}
    return model, trained


def one_step(model, trained):
    optimizer = trained["model"].optimizer
    optimizer.zero_grad()
    model(torch.ones(1, 3, 16, 16)).logits.square().mean().backward()
    optimizer.step()


def test_restored_training_goes_on_bit_for_bit(tmp_path):
    model, trained = trained_toy()
    one_step(model, trained)
    Checkpoints(tmp_path, "source").save(1, model, trained)
    one_step(model, trained)
    again, trained_again = trained_toy(seed=9)
    assert Checkpoints(tmp_path, "source").restore(again, trained_again) == 1
    one_step(again, trained_again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_only_the_newest_are_kept_and_stages_do_not_mix(tmp_path):
    model, trained = trained_toy()
    other = Checkpoints(tmp_path, "source-2")
    other.save(7, model, trained)
    checkpoints = Checkpoints(tmp_path, "source", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, model, trained)
    assert [path.name for path in checkpoints.paths()] == ["source-0000002.pt", "source-0000003.pt"]
    checkpoints.clear()
    assert len(other.paths()) == 1


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_state({"format": FORMAT, "value": 1}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SegRefineryError, match=r"No space left.*--resume"):
        save_state({"format": FORMAT, "value": 2}, path)
    assert load_safely(path)["value"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.pt"]


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    bad = tmp_path / "bad.pt"
    torch.save({"format": FORMAT, "module": _Bomb(mark)}, bad)
    with pytest.raises(SegRefineryError, match=r"loaded safely \([^.]*\); delete it and continue with --resume"):
        load_safely(bad)
    raw = tmp_path / "raw.pt"
    raw.write_bytes(pickle.dumps(_Bomb(mark)))
    with pytest.raises(SegRefineryError, match="loaded safely"):
        load_safely(raw)
    assert not mark.exists()


def test_damaged_missing_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(SegRefineryError, match="no such checkpoint"):
        load_safely(path)
    save_state({"format": FORMAT, "value": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SegRefineryError, match=r"a\.pt"):
        load_safely(path)
    save_state({"format": FORMAT + 1}, path)
    with pytest.raises(SegRefineryError, match=f"format {FORMAT + 1}"):
        load_safely(path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    model, trained = trained_toy()
    Checkpoints(tmp_path, "source").save(1, model, trained)
    other = ToySegmenter(num_classes=7)
    settings = OptimizerSettings()
    with pytest.raises(SegRefineryError, match="does not fit"):
        Checkpoints(tmp_path, "source").restore(
            other, {"model": build_optimizer(parameter_groups(other, settings), settings, 10)}
        )
