"""Models as people really have them: wrapped, averaged, halved, cut, unnamed. Each is read, or is one clear line."""

import collections
import functools
import json
import pathlib
import sys
import types
import typing
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.foreign.tiny import CLASSES, configurations, saved, with_statistics
from segrefinery.core.errors import SegRefineryError
from segrefinery.evaluation.inference import logits_at
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.foreign import smp
from segrefinery.models.start import read_start

SMALL = ModelSettings(name="small", options={"width": 16, "blocks": 1})
UNET = ModelSettings(name="smp:unet/resnet18")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def small():
    torch.manual_seed(0)
    return with_statistics(build_model(SMALL, 3))


def unet(**options):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    return with_statistics(smp.Unet(**{"encoder_name": "resnet18", "encoder_weights": None, "classes": 3} | options))


def image(bands=3):
    return torch.rand(2, bands, 64, 96, generator=torch.Generator().manual_seed(1))


# -- what trainers put around a state dict -----------------------------------------------------------------------------


def under(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def zeros(state):
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


WRAPPED = {
    "as it is": lambda state: state,
    "of DataParallel": under("module."),
    "of torch.compile": under("_orig_mod."),
    "of a compiled part": lambda state: {
        f"model.{name}".replace(".0.", ".0._orig_mod."): state[name] for name in state
    },
    "of parts that are shared out": lambda state: {f"_fsdp_wrapped_module.{name}": state[name] for name in state},
    "compiled beside itself": lambda state: under("net.")(state) | under("compiled._orig_mod.")(state),
    "of SWA": lambda state: {"n_averaged": torch.tensor(3), **under("module.")(state)},
    "under model_state_dict": lambda state: {
        "model_state_dict": state, "epoch": 3, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1.0}]}
    },
    "under net": lambda state: {"net": state, "epoch": 3},
    "under a name of the trainer's own": lambda state: {"my_unet": state, "epoch": 3},
    "beside its options": lambda state: {"model": {"params": {"width": 16}}, "net": state},
    "two deep": lambda state: {"state": {"model": state, "timestamp": {"epoch": 3}}},
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_the_state_is_found(tmp_path, how):
    own = small().state_dict()
    torch.save(WRAPPED[how](own), tmp_path / "last.pth")
    found = read_start(tmp_path / "last.pth", SMALL).state
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


@pytest.mark.parametrize(("key", "average"), [("state_dict", "state_dict_ema"), ("params", "params_ema")])
def test_an_average_beside_the_weights_is_said(tmp_path, key, average):
    own = small().state_dict()
    torch.save({average: zeros(own), key: own}, tmp_path / "last.pth")
    start = read_start(tmp_path / "last.pth", SMALL)
    assert torch.equal(start.state["classifier.weight"], own["classifier.weight"])
    assert any(f"{key} is read; left out: {average}" in note for note in start.notes)


@pytest.mark.parametrize(
    ("trained", "copy", "kind"),
    [
        ("model.", "ema.", "small"), ("model.", "ema.", "unet"), ("net.", "avg.", "small"),
        ("student.", "teacher.", "unet"), ("model.", "model_ema.module.", "small"),
    ],
)  # fmt: skip
def test_an_average_in_the_same_state_is_left_out(tmp_path, trained, copy, kind):
    """Whichever of the two comes first, and whichever prefix is shorter."""
    module, network = (small(), SMALL) if kind == "small" else (unet(), UNET)
    own = module.state_dict()
    left, right = under(trained)(own), under(copy)(zeros(own))
    for number, state in enumerate((left | right, right | left)):
        save_file(state, tmp_path / f"{number}.safetensors")
        start = read_start(tmp_path / f"{number}.safetensors", network)
        assert start.state["classifier.weight"].any()
        assert any(f"the prefix {trained!r} was taken off" in note for note in start.notes)


def test_of_two_networks_in_one_state_one_has_to_be_named(tmp_path):
    own = small().state_dict()
    torch.save(under("net_s.")(own) | under("net_t.")(zeros(own)), tmp_path / "last.pth")
    with pytest.raises(SegRefineryError, match=r"several such networks \(net_s, net_t\).*save one alone"):
        read_start(tmp_path / "last.pth", SMALL)
    unets = unet().state_dict()
    torch.save(under("net_s.")(unets) | under("net_t.")(zeros(unets)), tmp_path / "last.pth")
    with pytest.raises(SegRefineryError, match=r"several such networks \(net_s, net_t\).*save one alone"):
        read_start(tmp_path / "last.pth", UNET)


def test_an_average_beside_the_weights_of_a_recipe_is_said(tmp_path, caplog):
    own = small().state_dict()
    torch.save({"state_dict_ema": zeros(own), "state_dict": own}, tmp_path / "last.pth")
    build_model(SMALL.model_copy(update={"weights": str(tmp_path / "last.pth")}), 3)
    assert "last.pth: state_dict is read; left out: state_dict_ema" in caplog.text


def test_of_two_states_without_a_known_name_one_has_to_be_named(tmp_path):
    own = small().state_dict()
    torch.save({"student": own, "teacher": own}, tmp_path / "last.pth")
    with pytest.raises(SegRefineryError, match=r"holds several states \(student, teacher\).*save one alone"):
        read_start(tmp_path / "last.pth", SMALL)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path, kind):
    own = small().state_dict()
    halved = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    save_file(halved, tmp_path / "half.safetensors")
    start = read_start(tmp_path / "half.safetensors", SMALL)
    start.classes = CLASSES
    network, _ = start.build(CLASSES)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


# -- files that hold more than tensors ---------------------------------------------------------------------------------


def library(monkeypatch, name):
    """A library that is there when the file is written."""
    module = types.ModuleType(name)
    kind = type("Buffer", (), {"__module__": name})
    module.Buffer = kind
    monkeypatch.setitem(sys.modules, name, module)
    return kind


def test_what_a_trainer_keeps_beside_is_not_run_and_does_no_harm(tmp_path, monkeypatch):
    """As mmengine's history and Lightning's settings are."""
    history = library(monkeypatch, "no_such_trainer")()
    history.values = np.arange(3.0), np.float64(2)
    settings = {"root": pathlib.Path("data"), "lr": 0.1}
    own = small().state_dict()
    torch.save({"state_dict": own, "message_hub": history, "hyper_parameters": settings}, tmp_path / "last.ckpt")
    monkeypatch.delitem(sys.modules, "no_such_trainer")
    start = read_start(tmp_path / "last.ckpt", SMALL)
    assert torch.equal(start.state["classifier.weight"], own["classifier.weight"])
    assert "no_such_trainer" not in sys.modules


class Settings(dict):
    """As EasyDict, yacs and others keep settings: a mapping that has attributes too."""


class Values(list):
    pass


def test_settings_as_trainers_keep_them_do_no_harm(tmp_path, monkeypatch):
    """As hydra's templates save them: with partial functions, types of omegaconf, mappings of a kind of their own."""
    kind = library(monkeypatch, "no_such_settings")
    node = kind()
    node.ref_type, node.object_type, node.content = typing.Any, dict, {"lr": 0.1}
    mapping = Settings(width=16)
    mapping.frozen = True
    settings = {
        "optimizer": functools.partial(torch.optim.AdamW, lr=0.1), "node": node, "mapping": mapping,
        "values": Values([1, 2]), "history": collections.defaultdict(list, {"loss": [1.0]}), "optional": int | None,
        "last": collections.deque([1.0]), "range": range(3), "loss": nn.CrossEntropyLoss(), "array": np.arange(3.0),
    }  # fmt: skip
    own = small().state_dict()
    torch.save({"state_dict": Settings(own), "hyper_parameters": settings}, tmp_path / "last.ckpt")
    monkeypatch.delitem(sys.modules, "no_such_settings")
    found = read_start(tmp_path / "last.ckpt", SMALL).state
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())
    assert "no_such_settings" not in sys.modules


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_program_says_what_it_is(tmp_path):
    torch.jit.script(nn.Conv2d(3, 3, 1)).save(str(tmp_path / "model.pt"))
    with pytest.raises(SegRefineryError, match="is a TorchScript program; save the state_dict"):
        read_start(tmp_path / "model.pt", SMALL)


def test_what_makes_tensors_cannot_be_changed(tmp_path):
    """A pickle may set the state of what it names, and so another default of a function of torch."""
    makes = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x0c__defaults__)s\x86b."
    torch.save({"epoch": Settings()}, tmp_path / "plain.pth")  # not plain, so that it is read with shells
    with zipfile.ZipFile(tmp_path / "plain.pth") as given, zipfile.ZipFile(tmp_path / "evil.pth", "w") as evil:
        for name in given.namelist():
            evil.writestr(name, makes if name.endswith("data.pkl") else given.read(name))
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(SegRefineryError, match="could run code"):
        read_start(tmp_path / "evil.pth", SMALL)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_a_whole_module_is_read_by_its_tensors(tmp_path):
    module = unet()
    torch.save(nn.DataParallel(module), tmp_path / "best_model.pth")
    start = read_start(tmp_path / "best_model.pth", UNET)
    start.classes = CLASSES
    network, _ = start.build(CLASSES)
    with torch.no_grad():
        theirs, ours = module(image()), network.eval()(image()).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("call", [(open, ("pwned", "w")), (eval, ("1",)), (__import__, ("antigravity",))])
def test_a_file_that_calls_a_function_is_not_read(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return call

    torch.save({"state_dict": small().state_dict(), "epoch": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SegRefineryError, match="could run code"):
        read_start(tmp_path / "evil.pth", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


# -- files that are no weights -----------------------------------------------------------------------------------------

DAMAGED = {
    "pointer": (POINTER.encode(), "is a pointer of git-lfs and not the weights; run 'git lfs pull'"),
    "page": (b"<!DOCTYPE html><html>Not found</html>", "is a page of text and no weights"),
    "empty": (b"", "is empty"),
    "noise": (bytes(range(256)), "not a readable|is no weights file"),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_no_weights_file_is_one_line(tmp_path, what, suffix):
    content, said = DAMAGED[what]
    (tmp_path / f"best.{suffix}").write_bytes(content)
    with pytest.raises(SegRefineryError, match=rf"best\.{suffix}: .*({said})") as caught:
        read_start(tmp_path / f"best.{suffix}", SMALL)
    assert "\n" not in str(caught.value)


def test_a_length_that_looks_like_text_is_no_page(tmp_path):
    path, own = tmp_path / "best.safetensors", small().state_dict()
    save_file(own, path)
    written = path.read_bytes()
    length = int.from_bytes(written[:8], "little")
    padded = int.from_bytes(b" <", "little")
    header = written[8 : 8 + length].ljust(padded)
    path.write_bytes(padded.to_bytes(8, "little") + header + written[8 + length :])
    assert read_start(path, SMALL).state.keys() == own.keys()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_half_a_download_says_so(tmp_path, suffix):
    path = tmp_path / f"best.{suffix}"
    (torch.save if suffix == "pth" else save_file)(small().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SegRefineryError, match=rf"best\.{suffix}: is cut short.*fetch the file again"):
        read_start(path, SMALL)


def with_a_hole(path):
    """The file with a kilobyte of zeros in its middle, as storage that fails leaves it; its list of parts is whole."""
    written = bytearray(path.read_bytes())
    middle = len(written) // 2
    written[middle : middle + 1024] = bytes(1024)
    path.write_bytes(written)


def test_a_damaged_torch_file_says_so(tmp_path):
    torch.save(small().state_dict(), tmp_path / "best.pth")
    with_a_hole(tmp_path / "best.pth")
    weights = SMALL.model_copy(update={"weights": str(tmp_path / "best.pth")})
    for read in (lambda: read_start(tmp_path / "best.pth", SMALL), lambda: build_model(weights, 3)):
        with pytest.raises(SegRefineryError, match=r"best\.pth: is damaged \(the checksum of best/data/\d+ .*fetch"):
            read()


def test_a_torch_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(small().state_dict(), tmp_path / "best.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_start(tmp_path / "best.pth", SMALL).num_classes == 3


def test_a_damaged_torch_file_in_a_folder_says_so(tmp_path):
    saved(tmp_path, "segformer")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with_a_hole(tmp_path / "pytorch_model.bin")
    with pytest.raises(SegRefineryError, match=r"pytorch_model\.bin: is damaged"):
        read_start(tmp_path)


def test_half_a_download_of_a_folder_says_so(tmp_path):
    saved(tmp_path, "segformer")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SegRefineryError, match=r"its weights are cut short.*fetch the file again"):
        read_start(tmp_path)


# -- segmentation_models.pytorch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("bands", [1, 4])
def test_other_bands_than_three(tmp_path, bands, folder):
    module = unet(in_channels=bands)
    if folder:
        module.save_pretrained(tmp_path)
    else:
        torch.save(module.state_dict(), tmp_path / "best.pth")
    start = read_start(tmp_path if folder else tmp_path / "best.pth", UNET)
    assert start.network.bands == bands
    start.classes = CLASSES
    network, _ = start.build(CLASSES)
    with torch.no_grad():
        theirs = module(image(bands))
        ours = logits_at(network.eval(), image(bands), theirs.shape[-2:])
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("norm", [{"decoder_use_batchnorm": False}, {"decoder_use_norm": False}])
def test_a_folder_says_how_its_decoder_is_made(tmp_path, norm):
    unet(**norm).save_pretrained(tmp_path)
    assert not any("decoder" in name and "running_mean" in name for name in read_start(tmp_path).state)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"decoder_use_norm": False}, r"tensors are missing.*Check model\.name and model\.options"),
        ({"decoder_attention_type": "scse"}, r"decoder has 60 tensors more there.*attention.*Check model\.options"),
        ({"encoder_name": "resnet34"}, r"encoder has .* tensors more there than here.*layer"),
    ],
)
def test_a_network_made_otherwise_is_not_read_in_part(tmp_path, made, said):
    torch.save(unet(**made).state_dict(), tmp_path / "best.pth")
    with pytest.raises(SegRefineryError, match=said):
        read_start(tmp_path / "best.pth", UNET)


def test_one_class_of_a_sigmoid_is_two_of_a_softmax(tmp_path):
    module = unet(classes=1, activation="sigmoid")
    module.save_pretrained(tmp_path)
    start = read_start(tmp_path)
    assert any("its sigmoid is left out" in note for note in start.notes)
    assert any("one class is read as two" in note for note in start.notes)
    with pytest.raises(SegRefineryError, match=r"read as background and its one class: .*what its 2 classes are"):
        start.build(("building", "background"))
    for names in (("background", "building"), ("building",)):  # what the class is not needs no name
        start.name_classes(names)
        assert start.classes == ("background", "building")
    with pytest.raises(SegRefineryError, match=r"model\.classes: names 3 classes, and .* has 2"):
        start.name_classes(("a", "b", "c"))
    network, _ = start.build(("building", "background"))
    with torch.no_grad():
        theirs, ours = module(image()), network.eval()(image()).logits.softmax(dim=1)
    torch.testing.assert_close(ours[:, :1], theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"mean": [51, 102, 153], "std": [51, 51, 102], "input_range": [0, 255]}, ((0.2, 0.4, 0.6), (0.2, 0.2, 0.4))),
        ({"mean": [0.2, 0.4, 0.6], "std": [1, 1, 1], "input_range": None}, ((0.2, 0.4, 0.6), (1, 1, 1))),
        ({"input_range": [0, 255]}, (None, None)),
        ({"mean": [0.5], "std": [0.5]}, r"preprocessing\.json: mean: 3 numbers expected, one a band, got \[0\.5\]"),
        ({"mean": 0.5, "std": 0.5}, "mean: 3 numbers"),
        ({"mean": [0, 0, 0], "std": [0, 1, 1]}, r"std: 3 positive numbers expected, one a band, got \[0, 1, 1\]"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "input_space": "BGR"}, "input_space: the model wants BGR"),
        ([], r"preprocessing\.json: a mapping expected"),
    ],
)  # fmt: skip
def test_pixels_of_a_folder_of_smp_are_read_as_it_says(tmp_path, said, found):
    unet().save_pretrained(tmp_path)
    (tmp_path / "preprocessing.json").write_text(json.dumps(said))
    if not isinstance(found, str):
        start = read_start(tmp_path)
        assert (start.pixel_mean, start.pixel_std) == found
        return
    with pytest.raises(SegRefineryError, match=found):
        read_start(tmp_path)


def test_no_name_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unet().save_pretrained(tmp_path)  # what an empty path would be taken for
    with pytest.raises(SegRefineryError, match="has no name"):
        read_start("")


def of_arguments(**arguments):
    arguments = {"encoder_depth": 3, "decoder_channels": [16, 8, 8], **arguments}
    return ModelSettings(name="smp:unet/resnet18", weights="none", options={"arguments": arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"classes": 3},
        {"in_channels": 4},
        {"encoder_weights": "imagenet"},
        {"encoder_name": "resnet34"},
        {"arch": "fpn"},
    ],
)
def test_what_is_said_elsewhere_is_no_argument_of_smp(arguments):
    with pytest.raises(ValueError, match=rf"arguments: {next(iter(arguments))} is not said here, but by "):
        of_arguments(**arguments)
    assert of_arguments(in_channels=3).bands == 3  # what it is anyway


def test_what_comes_behind_the_logits_is_left_out_of_smps_arguments():
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    network = build_model(of_arguments(activation="sigmoid", aux_params={"classes": 5}), 3).eval()
    theirs, image = smp.as_theirs(network).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), network(image).logits)


# -- transformers ------------------------------------------------------------------------------------------------------


def edited(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config.pop(key, None) if value is None else config.update({key: value})
    (folder / "config.json").write_text(json.dumps(config))


UNNAMED = {
    "num_labels alone": {"id2label": None, "label2id": None, "num_labels": 3},
    "nothing": {"id2label": None, "label2id": None},
    "LABEL_0": {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}},
    "numbers": {"id2label": {"0": "0", "1": "1", "2": "2"}},
}


@pytest.mark.parametrize("case", UNNAMED)
def test_classes_without_names(tmp_path, case):
    saved(tmp_path, "segformer")
    edited(tmp_path, **UNNAMED[case])
    start = read_start(tmp_path)
    assert (start.num_classes, start.classes) == (3, None)
    assert any("its classifier has 3" in note for note in start.notes) == (case == "nothing")


@pytest.mark.parametrize("labels", [["road", "car"], {"road": 0, "car": 1}, {"0": None, "1": "car"}, "road, car"])
def test_names_of_another_form_are_one_line(tmp_path, labels):
    saved(tmp_path, "segformer")
    edited(tmp_path, id2label=labels)
    with pytest.raises(SegRefineryError, match=r"config\.json: id2label: a mapping of numbers.*got .*model\.classes="):
        read_start(tmp_path)


def test_two_classes_of_one_name(tmp_path):
    saved(tmp_path, "segformer")
    edited(tmp_path, id2label={"0": "road", "1": "road", "2": "sky"})
    with pytest.raises(SegRefineryError, match=r"two of its classes are called 'road'.*model\.classes"):
        read_start(tmp_path).build(CLASSES)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_folder_in_half_precision(tmp_path, kind):
    saved(tmp_path, "segformer").to(kind).save_pretrained(tmp_path)
    network, _ = read_start(tmp_path).build(CLASSES)
    assert network.eval()(image()).logits.dtype == torch.float32


def test_weights_in_parts_and_as_a_torch_file(tmp_path):
    whole, parts, torchs = (tmp_path / name for name in ("whole", "parts", "torch"))
    module = saved(whole, "segformer")
    module.save_pretrained(parts, max_shard_size="20KB")
    module.save_pretrained(torchs)
    torch.save(load_file(torchs / "model.safetensors"), torchs / "pytorch_model.bin")
    (torchs / "model.safetensors").unlink()
    own = read_start(whole).state
    for folder in (parts, torchs):
        files = sorted(path for path in folder.iterdir() if path.name.startswith(("model", "pytorch_model")))
        for given in (folder, files[0], files[-1]):  # a part, or the list of parts, is the folder too
            found = read_start(given)
            assert found.origin == str(folder)
            assert all(torch.equal(found.state[name], tensor) for name, tensor in own.items())
    sorted(parts.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(SegRefineryError, match=r"parts: transformers cannot load it.*model-00002"):
        read_start(parts)


STATISTICS = {
    "of bytes": ({"do_rescale": False, "image_mean": [51.0] * 3, "image_std": [102.0] * 3}, (0.2, 0.4)),
    "one number": ({"image_mean": 0.2, "image_std": 0.4}, (0.2, 0.4)),
    "not at all": ({"do_normalize": False}, (0.0, 1.0)),
    "bytes as they are": ({"do_normalize": False, "do_rescale": False}, (0.0, 1 / 255)),
    "-1 to 1": ({"do_normalize": False, "rescale_factor": 1 / 127.5}, (0.0, 0.5)),
}


def test_pixels_that_a_processor_normalises_by_numbers_of_bytes_and_rescales_are_refused(tmp_path):
    saved(tmp_path, "segformer", {"do_normalize": True, "image_mean": [123.7] * 3, "image_std": [58.4] * 3})
    with pytest.raises(SegRefineryError, match=r"no mean of images in \[0, 1\].*Mend what lies beside its weights"):
        read_start(tmp_path)


@pytest.mark.parametrize("case", STATISTICS)
def test_pixels_are_read_as_the_processor_says(tmp_path, case):
    given, (mean, std) = STATISTICS[case]
    saved(tmp_path, "segformer", {"do_normalize": True, "size": {"height": 640, "width": 480}} | given)
    start = read_start(tmp_path)
    assert (start.pixel_mean, start.pixel_std) == (pytest.approx((mean,) * 3), pytest.approx((std,) * 3))
    assert any("a height of 640 pixels and of a width of 480 pixels" in note for note in start.notes)


def test_a_processor_that_divides_by_nothing(tmp_path):
    saved(tmp_path, "segformer", {"do_normalize": True, "image_mean": [0, 0, 0], "image_std": [0, 1, 1]})
    with pytest.raises(SegRefineryError, match=r"\(0\.0, 1\.0, 1\.0\) is no standard deviation, which is pos"):
        read_start(tmp_path)


def test_weights_of_another_configuration(tmp_path):
    saved(tmp_path, "segformer")
    edited(tmp_path, decoder_hidden_size=24)
    with pytest.raises(SegRefineryError, match=r"not those of its configuration: decode_head.*\(16.*\(24"):
        read_start(tmp_path)


def test_code_of_its_own_is_neither_run_nor_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks the user"))
    saved(tmp_path, "segformer")
    edited(tmp_path, model_type="weird", auto_map={"AutoConfig": "x.Y", "AutoModelForSemanticSegmentation": "x.Z"})
    with pytest.raises(SegRefineryError, match=r"needs code of its own, which is not run"):
        read_start(tmp_path)


def test_a_pointer_and_a_pickle_in_a_folder(tmp_path):
    saved(tmp_path, "segformer")
    (tmp_path / "model.safetensors").write_text(POINTER)
    with pytest.raises(SegRefineryError, match=r"model\.safetensors: is a pointer of git-lfs"):
        read_start(tmp_path)

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "pwned"), "w")

    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SegRefineryError, match="loading them could run code, so they were not loaded"):
        read_start(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_files_beside_the_weights_are_not_looked_at(tmp_path):
    """As after a clone that fetched one of the two, and what other tools keep there."""
    saved(tmp_path, "segformer")
    (tmp_path / "pytorch_model.bin").write_text(POINTER)
    (tmp_path / "openvino_model.bin").write_bytes(bytes(64))
    assert read_start(tmp_path).num_classes == 3


def test_upernet_on_swin(tmp_path):
    hf = pytest.importorskip("transformers")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = hf.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=stages)
    config = configurations()["upernet"]
    config.backbone_config, config.auxiliary_in_channels = swin, 32
    config.id2label = dict(enumerate(CLASSES))
    module = with_statistics(hf.UperNetForSemanticSegmentation(config))
    module.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = module(image()).logits
        ours = logits_at(read_start(tmp_path).build(CLASSES)[0].eval(), image(), theirs.shape[-2:])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
