"""``model.weights`` of an earlier run: its classes are matched by name, whatever their order."""

import shlex
import shutil

import pytest
import torch
from safetensors.torch import load_file

from runs import TEST, command, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.model import load
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.start import new_network
from segrefinery.verbs.evaluate import evaluate

OPTIONS = {"width": 16, "blocks": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("before") / "run", "source_only", ("classes=[road, sky, car]",))


def settings(run):
    return ModelSettings(options=OPTIONS, weights=str(run / "source_model" / "model.safetensors"))


def test_classes_in_another_order_keep_their_scores(run, tmp_path):
    turned = tiny_run(
        tmp_path / "turned", "source_only",
        ("classes=[sky, car, road]", f"model.weights={settings(run).weights}", "stages.source.optimizer.lr=1e-30"),
    )  # fmt: skip
    before, after = (evaluate(part / "source_model", TEST) for part in (run, turned))
    assert after["iou"] == pytest.approx(before["iou"], abs=1e-6)


def test_rows_are_those_of_the_names(run):
    trained = load(run / "source_model").segmenter
    turned = new_network(settings(run), ("sky", "road"))
    assert torch.equal(turned.classifier.weight, trained.classifier.weight[[1, 0]])


def test_a_class_it_never_saw_is_named(run):
    with pytest.raises(SegRefineryError, match=r"has no class giraffe, only road, sky, car; rename"):
        new_network(settings(run), ("road", "giraffe"))


def test_weights_that_do_not_say_their_classes_are_refused(run, tmp_path):
    state = load_file(run / "source_model" / "model.safetensors")
    torch.save(state, tmp_path / "alone.pth")
    alone = ModelSettings(options=OPTIONS, weights=str(tmp_path / "alone.pth"))
    with pytest.raises(SegRefineryError, match=r"alone\.pth: nothing says what its classes are.*config\.json"):
        new_network(alone, ("road", "sky", "car"))
    torch.save({"state_dict": state, "meta": {"CLASSES": ["road", "sky", "car"]}}, tmp_path / "alone.pth")
    assert torch.equal(new_network(alone, ("car", "sky", "road")).classifier.weight, state["classifier.weight"].flip(0))


def test_a_new_network_is_the_one_that_its_settings_build():
    torch.manual_seed(1)
    one = build_model(ModelSettings(options=OPTIONS), 2)
    torch.manual_seed(1)
    other = new_network(ModelSettings(options=OPTIONS), ("a", "b"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_lost_weights_of_a_run_are_written_anew_by_the_command_that_the_error_names(tmp_path, monkeypatch, capsys):
    run = tiny_run(tmp_path / "run", "source_only")
    path = run / "source_model" / "model.safetensors"
    before = path.read_bytes()
    for damage, said in (
        (lambda: path.write_bytes(before[:-9]), "is cut short"),
        (path.unlink, "is no file of weights"),
    ):
        damage()
        with pytest.raises(SegRefineryError, match=said) as refused:
            load(run)
        named = str(refused.value).partition("write it anew: segrefinery ")[2]
        assert command(monkeypatch, capsys, *shlex.split(named))[0] == 0
        assert path.read_bytes() == before
    alone = shutil.copytree(path.parent, tmp_path / "alone")
    (alone / "model.safetensors").unlink()
    with pytest.raises(SegRefineryError, match=r"is no file of weights; check the path$"):
        load(alone)


def test_the_weights_of_a_run_are_as_open_as_its_other_files(run):
    weights, told = (run / "source_model" / name for name in ("model.safetensors", "config.json"))
    assert weights.stat().st_mode == told.stat().st_mode
