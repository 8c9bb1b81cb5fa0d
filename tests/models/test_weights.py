"""Settings, weights files and saved models: what must work, and what must fail loudly."""

import json
import os
import pickle

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from segrefinery.core.errors import SegRefineryError
from segrefinery.models import ModelSettings, build_model, load_weights, read_state
from segrefinery.models import states as states_module
from segrefinery.models.start import read_start
from segrefinery.models.states import hub_file
from segrefinery.models.weights import CONFIG, TENSORS, NetworkConfig, read_config, save_network

TINY = {"width": 16, "blocks": 1}
SETTINGS = ModelSettings(options=TINY)
CLASSES = ("road", "sky", "träm <b>")
COLORS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(SETTINGS, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "smal"}, "Did you mean 'small'"),
        ({"options": {"widht": 32}}, "options.widht.*Options: width, blocks, dropout"),
        ({"options": {"width": "wide"}}, "options.width"),
        ({"name": "smp:unet"}, "smp:ARCHITECTURE/ENCODER"),
        ({"name": "daformer:TIMM_ENCODER"}, None),
        ({"wieghts": "none"}, "wieghts"),
    ],
)
def test_wrong_settings(given, message):
    if message is None:
        with pytest.raises(SegRefineryError, match="timm has no encoder"):
            build_model(ModelSettings(**given), 3)
    else:
        with pytest.raises(ValidationError, match=message):
            ModelSettings(**given)


def test_unknown_encoders_name_the_nearest():
    with pytest.raises(SegRefineryError, match="Did you mean resnet18"):
        build_model(ModelSettings(name="daformer:resnet188", weights="none"), 3)
    with pytest.raises(SegRefineryError, match="no multi-level encoder"):
        build_model(ModelSettings(name="daformer:vit_tiny_patch16_224", weights="none"), 3)
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(SegRefineryError, match="Did you mean 'resnet18'"):
        build_model(ModelSettings(name="smp:unet/resnt18", weights="none"), 3)


def test_offline_says_which_file_and_where(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(states_module, "in_hub_cache", lambda *_: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_a, **_k: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(SegRefineryError, match=r"resnet101-63fe2227.pth .*no route.* Put that file at .*checkpoints"):
        states_module.downloaded("https://example.org/resnet101-63fe2227.pth")
    with pytest.raises(SegRefineryError, match=r"hf download timm/vit_small.*weights: none"):
        build_model(ModelSettings(name="dinov2_small"), 3)
    with pytest.raises(SegRefineryError, match=r"names it\)\.$"):  # random weights are no model to start from
        read_start("hf:org/model")
    with pytest.raises(SegRefineryError, match="hf download org/model"):
        hub_file("hf://org/model", CONFIG)
    with pytest.raises(SegRefineryError, match="expected hf://ORG/REPO"):
        hub_file("hf://org", CONFIG)
    with pytest.raises(SegRefineryError, match="no imagenet weights for small"):
        build_model(ModelSettings(weights="imagenet"), 3)


def test_a_damaged_download_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "net-0123abcd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    with pytest.raises(SegRefineryError, match="checksum"):
        states_module.downloaded("https://example.org/net-0123abcd.pth")


def test_weights_from_safetensors_torch_and_wrappers(model, tmp_path):
    state = model.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": state}, tmp_path / "c.pt")
    for file in ("a.safetensors", "b.pth", "c.pt"):
        other = build_model(SETTINGS, 3)
        load_weights(other, tmp_path / file)
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in state.items())
    built = build_model(ModelSettings(options=TINY, weights=str(tmp_path / "a.safetensors")), 3)
    assert torch.equal(built.classifier.weight, model.classifier.weight)


def test_what_does_not_fit_fails_loudly_and_loads_nothing(model, tmp_path):
    save_file({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "prefixed.safetensors")
    with pytest.raises(SegRefineryError, match=r"missing: stem.*\.\.\..*unknown: module"):
        load_weights(model, tmp_path / "prefixed.safetensors")
    four, before = build_model(SETTINGS, 4), model.stem[0][0].weight.clone()
    save_file(four.state_dict(), tmp_path / "four.safetensors")
    with pytest.raises(SegRefineryError, match=r"of another shape: classifier.weight \(4, 32, 1, 1\) instead of \(3"):
        load_weights(model, tmp_path / "four.safetensors")
    assert torch.equal(model.stem[0][0].weight, before)


def test_code_in_a_pickle_does_not_run(model, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    torch.save({"weight": Evil()}, tmp_path / "zipped.pth")
    for name in ("evil.pth", "zipped.pth"):
        with pytest.raises(SegRefineryError, match="could run code"):
            load_weights(model, tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_files_that_are_no_weights(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(SegRefineryError, match=name):
            read_state(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "b.pth")
    with pytest.raises(SegRefineryError, match="no mapping of names to tensors"):
        read_state(tmp_path / "b.pth")
    with pytest.raises(SegRefineryError, match=r"c\.pth: is no file of weights; check the path"):
        read_state(tmp_path / "c.pth")
    with pytest.raises(SegRefineryError, match=r"name a file in this folder, as .*model\.safetensors"):
        read_state(tmp_path)


def config(**changes):
    return NetworkConfig(**({"model": SETTINGS, "space": "own", "classes": CLASSES, "colors": COLORS} | changes))


def test_a_saved_network_comes_back(model, tmp_path):
    folder = tmp_path / "my model"
    save_network(folder, model, config())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    read = read_config(folder / CONFIG)
    assert read == config()
    other = build_model(read.model, len(read.classes))
    load_weights(other, folder / TENSORS)
    image = torch.randn(1, 3, 20, 30)
    with torch.no_grad():
        assert torch.equal(other.eval()(image).logits, model.eval()(image).logits)
    with pytest.raises(ValueError, match="3 classes, but 2 colors"):
        config(colors=COLORS[:2])


def test_a_full_disk_leaves_the_old_network(model, tmp_path):
    resource = pytest.importorskip("resource", reason="no limits of a process here")
    save_network(tmp_path, model, config())
    before = (tmp_path / "model.safetensors").read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, unlimited[1]))
    try:
        with pytest.raises(SegRefineryError, match=r"model\.safetensors: cannot be written \(File too large"):
            save_network(tmp_path, model, config())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_descriptions_that_cannot_be_read(tmp_path):
    path = tmp_path / CONFIG
    with pytest.raises(SegRefineryError, match="not a saved model"):
        read_config(path)
    content = config().model_dump(mode="json")
    for change, message in (({"format": 3}, "format 3"), ({"classes": 5}, "classes"), ({"colors": []}, "colors")):
        path.write_text(json.dumps(content | change), encoding="utf-8")
        with pytest.raises(SegRefineryError, match=message):
            read_config(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(SegRefineryError, match=r"config\.json: cannot be read"):
        read_config(path)
