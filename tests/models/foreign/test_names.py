"""Checkpoints whose names or numbers are not the network's: read, or one line that says what lies where."""

import json

import pytest
import torch

from models.foreign.tiny import CLASSES, saved
from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.start import make_ready
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.start import new_network, read_start
from segrefinery.models.weights import NetworkConfig, save_network

SMALL = ModelSettings(name="small", options={"width": 16, "blocks": 1})
UNET = ModelSettings(name="smp:unet/resnet18")


@pytest.fixture(scope="module")
def unet():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    return smp.Unet("resnet18", encoder_weights=None, classes=3).state_dict()


def small():
    torch.manual_seed(0)
    return build_model(SMALL, 3).state_dict()


def with_parts(state, **parts):
    """With other beginnings of the names: what stands before the dot, by what stands there now."""
    return {parts.get(name.partition(".")[0], name.partition(".")[0]) + name[name.index(".") :]: state[name]
            for name in state}  # fmt: skip


def of(tmp_path, state, **more):
    torch.save({"state_dict": state, **more} if more else state, tmp_path / "last.pth")
    return tmp_path / "last.pth"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"encoder": "enc", "decoder": "dec.decoder", "segmentation_head": "dec.segmentation_head"},
            r"encoder\.\* is called enc\.\* there; rename them",
        ),
        (
            {"encoder": "encoder.module", "decoder": "decoder.module"},
            r"encoder\.\* is called encoder\.module\.\* and decoder\.\* is called decoder\.module\.\* there; rename",
        ),
        ({"encoder": "backbone", "segmentation_head": "last"}, r"backbone\.\* there, and 2 are nowhere \(classifier\."),
    ],
)
def test_parts_that_go_by_other_names_are_said(tmp_path, unet, parts, said):
    with pytest.raises(SegRefineryError, match=said) as error:
        read_start(of(tmp_path, with_parts(unet, **parts)), UNET)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_of_another_network_a_tensor_a_part_is_said(tmp_path, unet):
    other = {name.replace("decoder.blocks", "decoder.rows").replace("conv1.0", "first"): unet[name] for name in unet}
    with pytest.raises(SegRefineryError, match=r"tensors are missing; the first are decoder\.") as error:
        read_start(of(tmp_path, other), UNET)
    assert len(str(error.value)) < 350 + len(str(tmp_path))


def test_whole_numbers_in_place_of_weights_are_refused(tmp_path):
    state = {name: tensor.to(torch.int8) for name, tensor in small().items()}
    start = read_start(of(tmp_path, state), SMALL)
    start.classes = CLASSES
    with pytest.raises(SegRefineryError, match=r"last\.pth.* is of int8, as of a quantised network"):
        start.build(CLASSES)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda tensor: tensor.to(torch.int8), "is of int8, as of a quantised network"),
        (lambda tensor: tensor * torch.nan, "holds values that are not finite"),
    ],
)
def test_weights_of_a_new_network_are_numbers_too(tmp_path, broken, said):
    path = of(tmp_path, {name: broken(tensor) for name, tensor in small().items()}, meta={"CLASSES": CLASSES})
    with pytest.raises(SegRefineryError, match=rf"last\.pth: stem\S* {said}"):
        new_network(SMALL.model_copy(update={"weights": str(path)}), CLASSES)


def test_a_statistic_too_large_for_float16_is_refused(tmp_path, unet):
    name = "encoder.bn1.running_var"
    halved = {each: unet[each].half() for each in unet} | {name: (unet[name] * 1e6).half()}
    start = read_start(of(tmp_path, halved), UNET)
    start.classes = CLASSES
    with pytest.raises(SegRefineryError, match=rf"last\.pth: {name} holds values that are not finite"):
        make_ready(start, CLASSES, True, print)


def test_half_a_file_of_the_old_format(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(small(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SegRefineryError, match=r"old\.pth: is cut short, as by half a download"):
        read_start(path, SMALL)


def test_why_names_of_classes_were_not_taken(tmp_path):
    start = read_start(of(tmp_path, small(), meta={"CLASSES": ("road", "car")}), SMALL)
    with pytest.raises(SegRefineryError, match=r"what its 3 classes are \(the checkpoint names 2\); name them"):
        start.build(CLASSES)
    pytest.importorskip("transformers")
    saved(tmp_path / "theirs", "segformer")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text()) | {"id2label": {"0": "road", "2": "car", "3": "sky"}, "label2id": {}}
    path.write_text(json.dumps(config))
    with pytest.raises(SegRefineryError, match=r"\(id2label numbers them 0, 2, 3, and the rows of .* are 0 to 2\)"):
        read_start(tmp_path / "theirs").build(CLASSES)


def test_a_folder_of_smp_with_other_classes_than_it_says(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    smp.Unet("resnet18", encoder_weights=None, classes=3).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"classes": 5}))
    (tmp_path / "preprocessing.json").write_text(json.dumps({"classes": list("abcde")}))
    start = read_start(tmp_path)
    assert start.num_classes == 3
    assert "its config.json says 5 classes, and its classifier has 3" in start.notes
    with pytest.raises(SegRefineryError, match=r"what its 3 classes are \(preprocessing\.json names 5\)"):
        start.build(list("abc"))
    for wrong in ({"classes": "three"}, {"encoder_name": None}, {"in_channels": None}):
        path.write_text(json.dumps(config | wrong))
        with pytest.raises(SegRefineryError, match=rf"config\.json: {next(iter(wrong))}: a (name|number) expected"):
            read_start(tmp_path)


def test_a_folder_of_ours_with_other_classes_than_it_says(tmp_path):
    network = build_model(SMALL, 3)
    said = NetworkConfig(model=SMALL, space="toy", classes=tuple("abcde"), colors=((0, 0, 0),) * 5)
    save_network(tmp_path, network, said)
    with pytest.raises(SegRefineryError, match=r"model\.safetensors: .* is \(3, .* by config\.json .*5 classes"):
        read_start(tmp_path)
