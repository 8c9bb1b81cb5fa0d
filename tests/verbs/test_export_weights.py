"""Adapted weights go back in the layout of the checkpoint they came from, which its owner's own code loads."""

import re
from pathlib import Path

import pytest
import torch
import torchvision.models
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

import segrefinery
from foreign_deeplab import BLOCKS, ResNetMulti
from foreign_mit import ConvolvedHead, DAFormerHead, HRDANetwork, Network, SegFormerHead, numbered
from models.foreign.tiny import CLASSES, with_statistics
from runs import NIGHT, TINY, command
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.model import ModelConfig, Origin
from segrefinery.evaluation.inference import logits_at
from segrefinery.models import ModelSettings, wrap
from segrefinery.models.start import read_start
from segrefinery.models.weights import save_network

smp = pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("transformers")

TURNED = ("sky", "road", "car")
"""The classes as a run may know them."""


def adapted(folder, checkpoint, classes=TURNED, network=None, named=None):
    """A model folder with other weights than the checkpoint's -> its network."""
    start = read_start(checkpoint, network)
    start.classes = named or start.classes
    model, _ = start.build(classes)
    torch.manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
    config = ModelConfig(
        model=start.network, space="some", classes=classes, colors=((0, 0, 0),) * len(classes), data=DataSettings(),
        trained_on=Origin(start=str(checkpoint)),
    )  # fmt: skip
    save_network(folder, model, config)
    return model.eval()


@torch.no_grad()
def says_the_same(theirs, ours, rows=(0, 1, 2), size=(64, 96)):
    """Whether the owner's module, loaded, puts out our logits in the order of its own classes."""
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    wanted = theirs.eval()(image)
    logits = logits_at(ours, image, wanted.shape[-2:])[:, list(rows)]
    torch.testing.assert_close(wanted, logits, atol=1e-5 * float(logits.abs().max()), rtol=0)


MMSEG = {
    "SegFormer": (lambda: Network(SegFormerHead(3)), "", (), dict),
    "mmsegmentation 0.20": (lambda: Network(SegFormerHead(3)), "", (), numbered),
    "mmsegmentation's head": (lambda: Network(ConvolvedHead(3)), "", (), dict),
    "mmsegmentation's head and backbone": (lambda: Network(ConvolvedHead(3, 64)), "", (), numbered),
    "DAFormer": (lambda: Network(DAFormerHead(3)), "model.", ("ema_model.", "imnet_model."), dict),
    "HRDA": (lambda: HRDANetwork(3), "model.", ("ema_model.", "imnet_model."), dict),
    "MIC": (lambda: HRDANetwork(3), "model.", ("ema_model.ema_model.", "mic.teacher.ema_model."), dict),
}
"""The network, what stands before its names and before those of others beside it, and how it is spelled."""


@pytest.mark.parametrize("kind", MMSEG)
def test_a_checkpoint_of_mmsegmentation(tmp_path, kind):
    make, prefix, others, spelling = MMSEG[kind]
    module = with_statistics(make())
    state = {f"{prefix}{name}": tensor.clone() for name, tensor in spelling(module.state_dict()).items()}
    beside = {f"{other}{name}": tensor.clone() for other in others for name, tensor in module.state_dict().items()}
    state |= beside
    meta = {"CLASSES": list(CLASSES)}
    torch.save({"state_dict": state, "meta": meta, "optimizer": {"lr": 1}}, tmp_path / "iter.pth")
    ours = adapted(tmp_path / "model", tmp_path / "iter.pth")
    with pytest.raises(SegRefineryError, match=r"iter\.pth: is the checkpoint that was adapted, and stays"):
        segrefinery.export(tmp_path / "model", tmp_path / "iter.pth", "state_dict")
    written = segrefinery.export(tmp_path / "model", tmp_path / "back.pth", "state_dict")
    back = torch.load(tmp_path / "back.pth")
    assert back.keys() == {"state_dict", "meta"}
    assert "left out: optimizer" in written.note["notes"]
    assert written.note["load"] == "torch.load(FILE)['state_dict']"
    assert [(name, each.shape, each.dtype) for name, each in back["state_dict"].items()] == [
        (name, each.shape, each.dtype) for name, each in state.items()
    ]
    loaded = {name.removeprefix(prefix): each for name, each in back["state_dict"].items() if name.startswith(prefix)}
    if spelling is numbered:  # a module that spells it so is not here; our reader knows both
        again, _ = read_start(tmp_path / "back.pth").build(TURNED)
        assert all(torch.equal(again.state_dict()[name], each) for name, each in ours.state_dict().items())
        return
    module.load_state_dict(loaded, strict=True)
    says_the_same(module, ours, (1, 2, 0), (64, 128))
    assert all(torch.equal(back["state_dict"][name], each) for name, each in beside.items())
    assert ("ema_model" in written.note["notes"]) == bool(others)


def test_a_checkpoint_of_adaptsegnet(tmp_path, monkeypatch):
    """Blue first, and two of its four dilations are in use; old files have no counters."""
    monkeypatch.setattr(torchvision.models, "resnet101", lambda **options: ResNet(Bottleneck, list(BLOCKS), **options))
    module = with_statistics(ResNetMulti(3))
    state = {name: each.clone() for name, each in module.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "GTA2Cityscapes_multi.pth")
    ours = adapted(tmp_path / "model", tmp_path / "GTA2Cityscapes_multi.pth", named=CLASSES)
    with pytest.raises(SegRefineryError, match=r"what its 3 classes are"):
        segrefinery.export(tmp_path / "model", tmp_path / "back.pth", "state_dict")
    (tmp_path / "recipe.yaml").write_text(
        "extends: self_training\nmodel: {name: deeplabv2_resnet101, options: {}, from: GTA2Cityscapes_multi.pth, "
        "classes: [road, car, sky]}\n"
    )
    written = segrefinery.export(tmp_path, tmp_path / "back.pth", "state_dict")
    back = torch.load(tmp_path / "back.pth")
    assert [(name, each.shape) for name, each in back.items()] == [(name, each.shape) for name, each in state.items()]
    assert "8 tensors that are not the network's are as they were" in written.note["notes"]
    assert torch.equal(back["layer6.conv2d_list.3.weight"], state["layer6.conv2d_list.3.weight"])
    module.load_state_dict(back, strict=False)
    mean, std = (torch.tensor(triple)[:, None, None] for triple in ours.normalization)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs, logits = module.eval()(image), ours((image - mean) / std).logits[:, [1, 2, 0]]
    torch.testing.assert_close(theirs, logits, atol=1e-5 * float(logits.abs().max()), rtol=0)


def test_a_lightning_checkpoint_of_a_run(tmp_path):
    """Whose classes the user had named."""
    module = with_statistics(smp.FPN("resnet18", encoder_weights=None, classes=3))
    state = {f"net.{name}": tensor for name, tensor in module.state_dict().items()} | {"loss.weight": torch.ones(3)}
    settings = {"root": Path("data"), "lr": 0.1}
    content = {"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "2.5", "epoch": 3}
    torch.save(content, tmp_path / "last.ckpt")
    changes = ("model.name=smp:fpn/resnet18", "model.options={}", "model.classes=[road, car, sky]")
    run = segrefinery.adapt(
        "self_training", None, NIGHT, tmp_path / "run", start=tmp_path / "last.ckpt", scale="small",
        overrides=(*TINY, *changes, "classes=[car, road, sky]", "stages.adapt.steps=1"),
    )  # fmt: skip
    written = segrefinery.export(run, tmp_path / "back.ckpt", "state_dict")
    back = torch.load(tmp_path / "back.ckpt")
    assert back["hyper_parameters"] == {"lr": 0.1}
    assert back["epoch"] == 3
    assert "hyper_parameters.root" in written.note["notes"]
    assert "loss.weight" in written.note["notes"]
    assert not torch.equal(back["state_dict"]["net.encoder.conv1.weight"], state["net.encoder.conv1.weight"])
    loaded = {name.removeprefix("net."): each for name, each in back["state_dict"].items() if name.startswith("net.")}
    module.load_state_dict(loaded, strict=True)
    says_the_same(module, segrefinery.load(run, "cpu").network, (1, 0, 2))


def test_one_class_and_a_class_that_was_left_out(tmp_path):
    module = with_statistics(smp.Unet("resnet18", encoder_weights=None, classes=1))
    torch.save(module.state_dict(), tmp_path / "unet.pth")
    network = ModelSettings(name="smp:unet/resnet18")
    named = ("background", "crack")
    ours = adapted(tmp_path / "model", tmp_path / "unet.pth", ("crack", "background"), network, named)
    with pytest.raises(SegRefineryError, match=r"unet\.pth: has one class"):
        segrefinery.export(tmp_path / "model", tmp_path / "back.pth", "state_dict")
    for named in ("background, crack", "crack"):
        (tmp_path / "recipe.yaml").write_text(
            "extends: self_training\nmodel: {name: smp:unet/resnet18, options: {}, from: unet.pth, "
            f"classes: [{named}]}}\n"
        )
        segrefinery.export(tmp_path, tmp_path / "back.pth", "state_dict")
    module.load_state_dict(torch.load(tmp_path / "back.pth"), strict=True)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        theirs, seen = module.eval()(image), logits_at(ours, image, (64, 96))
    torch.testing.assert_close(theirs[:, 0].sigmoid(), seen.softmax(dim=1)[:, 0], atol=1e-5, rtol=1e-4)


def test_rows_of_classes_that_the_run_has_not_stay(tmp_path):
    module = with_statistics(Network(SegFormerHead(3)))
    torch.save({"state_dict": module.state_dict(), "meta": {"CLASSES": list(CLASSES)}}, tmp_path / "iter.pth")
    before = module.decode_head.linear_pred.bias.detach().clone()
    ours = adapted(tmp_path / "model", tmp_path / "iter.pth", ("sky", "road"))
    written = segrefinery.export(tmp_path / "model", tmp_path / "back.pth", "state_dict")
    assert "the rows of car" in written.note["notes"]
    state = torch.load(tmp_path / "back.pth")["state_dict"]
    module.load_state_dict(state, strict=True)
    assert state["decode_head.linear_pred.bias"][1] == before[1]
    assert torch.equal(state["decode_head.linear_pred.bias"][[2, 0]], ours.head.classifier.bias)


def test_a_module_of_the_users_gets_its_own_names_back(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
    start = wrap(module, 3)
    run = segrefinery.adapt(
        "self_training", None, NIGHT, tmp_path / "run", start=start, scale="small",
        overrides=(*TINY, "stages.adapt.steps=1", "classes=[road, car, sky]", "model.classes=[road, car, sky]"),
    )  # fmt: skip
    segrefinery.export(run, tmp_path / "back.safetensors", "state_dict")
    before = module[0].weight.detach().clone()
    module.load_state_dict(load_file(tmp_path / "back.safetensors"), strict=True)
    assert not torch.equal(module[0].weight, before)
    with pytest.raises(SegRefineryError, match=r"network=.*--format state_dict"):
        segrefinery.export(run, tmp_path / "back.pt2", "torch")
    written = segrefinery.export(run, tmp_path / "back.pt2", "torch", network=start)
    assert written.equal == 1


def test_what_has_no_layout_is_one_line(tmp_path, monkeypatch, capsys):
    module = with_statistics(Network(SegFormerHead(3)))
    torch.save({"state_dict": module.state_dict(), "meta": {"CLASSES": list(CLASSES)}}, tmp_path / "iter.pth")
    adapted(tmp_path / "model", tmp_path / "iter.pth")
    other = {"state_dict": Network(DAFormerHead(3)).state_dict(), "meta": {"CLASSES": list(CLASSES)}}
    torch.save(other, tmp_path / "other.pth")
    cases = {
        r"is a checkpoint of daformer_b0, and this model's network is segformer_b0": ["--like", tmp_path / "other.pth"],
        r"there is no such checkpoint; name one with --like": ["--like", tmp_path],
        r"weights alone are written": ["--output", "labels"],
        r"--like goes with --format state_dict": ["--like", tmp_path / "other.pth", "--format", "onnx"],
    }
    for match, more in cases.items():
        arguments = ["export", tmp_path / "model", "-o", tmp_path / "back.pth", "--format", "state_dict", *more]
        code, _, error = command(monkeypatch, capsys, *arguments)
        assert code == 2
        assert re.search(match, error), error
        assert error.count("\n") == 1
    (tmp_path / "iter.pth").unlink()
    code, _, error = command(
        monkeypatch, capsys, "export", tmp_path / "model", "-o", tmp_path / "b", "--format", "state_dict"
    )
    assert code == 2
    assert "--like" in error
