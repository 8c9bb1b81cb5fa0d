"""A model of another library predicts here what it predicts there, and keeps its classes."""

import json

import pytest
import torch
import torchvision.models
from safetensors.torch import load_file
from torch.nn.functional import interpolate
from torchvision.models.resnet import Bottleneck, ResNet

from foreign_deeplab import BLOCKS, ResNetMulti
from foreign_mit import ConvolvedHead, DAFormerHead, HRDANetwork, Network, SegFormerHead, numbered
from models.foreign.tiny import CLASSES, configurations, saved, with_statistics
from segrefinery.core.errors import SegRefineryError
from segrefinery.evaluation.inference import logits_at
from segrefinery.models import ModelSettings, build_model, wrap
from segrefinery.models.start import read_start
from segrefinery.models.trained import class_tensors
from segrefinery.models.weights import NetworkConfig, save_network


def image(height=64, width=96):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(start, classes=CLASSES, of=None):
    network, new = start.build(classes)
    return network.eval()(image() if of is None else of).logits, new


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["segformer", "upernet", "beit", "dpt", "mobilevit", "mobilevitv2", "mobilenet_v2"])
def test_a_model_of_transformers_predicts_the_same(tmp_path, family):
    module = saved(tmp_path, family)
    start = read_start(tmp_path)
    assert start.classes == CLASSES
    x = image(64, 64) if family == "dpt" else image()  # the library's DPT takes squares alone
    arguments = {"interpolate_pos_encoding": True} if family == "beit" else {}
    with torch.no_grad():
        theirs = module(x.flip(1) if start.network.options["bgr"] else x, **arguments).logits
    ours, new = logits_of(start, of=x)
    assert not new
    torch.testing.assert_close(interpolate(ours, theirs.shape[-2:], mode="bilinear"), theirs, atol=1e-5, rtol=0)
    odd, _ = logits_of(start, of=image(61, 75))
    assert odd.isfinite().all()


def test_the_preprocessor_says_how_pixels_are_read(tmp_path):
    saved(tmp_path, "segformer", {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]})
    start = read_start(tmp_path)
    assert (start.pixel_mean, start.pixel_std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert not start.notes


def test_a_preprocessor_that_cannot_be_read_is_no_missing_one(tmp_path):
    saved(tmp_path, "segformer")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5')
    with pytest.raises(SegRefineryError, match=r"preprocessor_config\.json: cannot be read .*; fetch it again"):
        read_start(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    start = read_start(tmp_path)
    assert start.pixel_mean == pytest.approx((0.485, 0.456, 0.406))
    assert "pixels are read as SegformerImageProcessor does by default" in start.notes[0]


def test_blue_comes_first_where_the_preprocessor_says_so(tmp_path):
    module = saved(tmp_path, "mobilevit", {"do_flip_channel_order": True})
    start = read_start(tmp_path)
    assert (start.pixel_mean, start.pixel_std) == ((0, 0, 0), (1, 1, 1))
    with torch.no_grad():
        theirs = module(image().flip(1)).logits
    torch.testing.assert_close(logits_of(start)[0], theirs, atol=1e-5, rtol=0)


def test_classes_are_found_by_name_and_unknown_ones_are_new(tmp_path):
    saved(tmp_path, "segformer")
    start = read_start(tmp_path)
    same, _ = logits_of(start)
    turned, new = logits_of(start, ("sky", "train", "road"))
    assert new == ["train"]
    torch.testing.assert_close(turned[:, 0], same[:, 2])
    torch.testing.assert_close(turned[:, 2], same[:, 0])


def test_a_model_without_names_of_classes_asks_for_them(tmp_path):
    saved(tmp_path, "segformer", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(SegRefineryError, match=r"what its 3 classes are.*model\.classes"):
        read_start(tmp_path).build(CLASSES)


def test_no_class_in_common_is_an_error(tmp_path):
    saved(tmp_path, "segformer")
    with pytest.raises(SegRefineryError, match=r"none of its classes \(road, car, sky\).*\(liver, heart\)"):
        read_start(tmp_path).build(("liver", "heart"))


@pytest.mark.parametrize("left", [2000, -200])
def test_half_a_download_names_the_folder(tmp_path, left):
    """Cut in its header, and in its tensors."""
    saved(tmp_path, "segformer")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(SegRefineryError, match=f"{tmp_path}.*cut short, as by half a download; fetch"):
        read_start(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_folder_is_the_folder(tmp_path, name):
    saved(tmp_path, "segformer")
    start = read_start(tmp_path / name, ModelSettings(name="efficientnet_lite0"))
    assert (start.origin, start.classes) == (str(tmp_path), CLASSES)


def test_a_configuration_that_is_no_json_is_to_be_fetched_again(tmp_path):
    saved(tmp_path, "segformer")
    (tmp_path / "config.json").write_text('{"model_type": "segf')
    with pytest.raises(SegRefineryError, match=r"config\.json: cannot be read .*; fetch the file again"):
        read_start(tmp_path)


def test_a_state_of_transformers_asks_for_its_configuration(tmp_path):
    module = saved(tmp_path / "folder", "segformer")
    torch.save({f"net.{name}": tensor for name, tensor in module.state_dict().items()}, tmp_path / "net.pth")
    with pytest.raises(SegRefineryError, match=r"net\.pth: its names are those of transformers' segformer, and small"):
        read_start(tmp_path / "net.pth", ModelSettings(name="small"))


@pytest.mark.parametrize("release", ["installed", "old"])
def test_a_lightning_checkpoint_of_transformers_segformer(tmp_path, release):
    """Of the names that the installed release has, and of those that ``save_pretrained`` writes, release 4's."""
    module = saved(tmp_path, "segformer")
    state = module.state_dict() if release == "installed" else load_file(tmp_path / "model.safetensors")
    assert any(".block." in name for name in state) == (release == "old")
    torch.save({"state_dict": {f"model.{name}": each for name, each in state.items()}}, tmp_path / "last.ckpt")
    config = json.loads((tmp_path / "config.json").read_text())
    start = read_start(tmp_path / "last.ckpt", ModelSettings(name="transformers:segformer", options={"config": config}))
    assert "the prefix 'model.' was taken off the names" in start.notes
    start.classes = CLASSES
    with torch.no_grad():
        theirs = module(image()).logits
    torch.testing.assert_close(logits_of(start)[0], theirs, atol=1e-5, rtol=0)


def test_a_state_of_transformers_upernet_is_no_mmsegmentations(tmp_path):
    """Both call their parts ``backbone`` and ``decode_head``; what the user names it is."""
    module = saved(tmp_path, "upernet")
    state = {f"model.{name}": each for name, each in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    config = json.loads((tmp_path / "config.json").read_text())
    start = read_start(tmp_path / "last.ckpt", ModelSettings(name="transformers:upernet", options={"config": config}))
    start.classes = CLASSES
    network, _ = start.build(CLASSES)
    with torch.no_grad():
        theirs, ours = module(image()).logits, logits_at(network.eval(), image(), (64, 96))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_classifier_of_whole_images_is_no_segmentation_model(tmp_path):
    import transformers as hf

    config = configurations()["segformer"]
    hf.SegformerForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(SegRefineryError, match="no trained segmentation model"):
        read_start(tmp_path)


# -- segmentation_models.pytorch, torchvision --------------------------------------------------------------------------


ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
    "Segformer",
)  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_of_smp_predicts_the_same(tmp_path, architecture):
    """At the image's size: where the library enlarges its logits, ours lie from corner to corner as its own do."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    module = with_statistics(getattr(smp, architecture)("resnet18", encoder_weights=None, classes=3))
    module.save_pretrained(tmp_path)
    start = read_start(tmp_path)
    assert start.network.name == f"smp:{architecture.lower()}/resnet18"
    start.classes = CLASSES
    network, _ = start.build(CLASSES)
    x = image(128, 160)  # PAN takes no smaller ones
    with torch.no_grad():
        theirs, seen = module(x), network.eval()(x)
        ours = logits_at(network, x, theirs.shape[-2:])
    assert seen.aligned == (seen.logits.shape != theirs.shape)
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


def test_dpt_of_smp_is_wrapped(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    module = smp.DPT("tu-vit_tiny_patch16_224", encoder_weights=None, classes=3, dynamic_img_size=True).eval()
    module.save_pretrained(tmp_path)
    with pytest.raises(SegRefineryError, match=r"smp's DPT .*models\.wrap\(module, number_of_classes\) adapts it"):
        read_start(tmp_path)
    network = wrap(module, 3).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image(64, 96)).logits, module(image(64, 96)))


def test_a_family_that_is_not_known_is_wrapped(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "data2vec-vision"}')
    with pytest.raises(SegRefineryError, match=r"'data2vec-vision'\. .*put out logits .*models\.wrap\(module"):
        read_start(tmp_path)


def test_a_state_of_smp_asks_for_its_network(tmp_path):
    torch.save({"net.segmentation_head.0.weight": torch.ones(3, 16, 3, 3)}, tmp_path / "unet.pth")
    with pytest.raises(
        SegRefineryError, match=r"names are those of segmentation_models.*model\.name=smp:unet/resnet34"
    ):
        read_start(tmp_path / "unet.pth", ModelSettings(name="efficientnet_lite0"))


def test_a_lightning_checkpoint_loses_its_prefix_and_says_so(tmp_path):
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    module = with_statistics(smp.Unet("resnet18", encoder_weights=None, classes=3))
    state = {f"net.model.{name}": tensor for name, tensor in module.state_dict().items()}
    state["loss.weight"] = torch.ones(3)
    torch.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.5"}, tmp_path / "last.ckpt")
    start = read_start(tmp_path / "last.ckpt", ModelSettings(name="smp:unet/resnet18"))
    start.classes = CLASSES
    with torch.no_grad():
        theirs = module(image())
    torch.testing.assert_close(logits_of(start)[0], theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


def test_a_state_of_torchvision(tmp_path):
    from torchvision.models.segmentation import fcn_resnet50

    module = with_statistics(fcn_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True))
    torch.save(module.state_dict(), tmp_path / "fcn.pth")
    start = read_start(tmp_path / "fcn.pth", ModelSettings(name="torchvision:fcn_resnet50"))
    assert any("aux_classifier" in note for note in start.notes)
    start.classes = CLASSES
    with torch.no_grad():
        theirs = module(image())["out"]
    ours = interpolate(logits_of(start)[0], theirs.shape[-2:], mode="bilinear")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# -- mmsegmentation's kind ---------------------------------------------------------------------------------------------


HEADS = {
    "SegFormer": (SegFormerHead, 256, "segformer_b0", {}),
    "SegFormer, wider": (SegFormerHead, 320, "segformer_b0", {"width": 320}),
    "mmsegmentation's": (ConvolvedHead, 256, "segformer_b0", {"level_norm": True}),
    "mmsegmentation's, narrow": (ConvolvedHead, 40, "segformer_b0", {"level_norm": True, "width": 40}),
    "DAFormer": (DAFormerHead, 256, "daformer_b0", {}),
}


@pytest.mark.parametrize("spelling", ["segformer", "numbered"])
@pytest.mark.parametrize("kind", HEADS)
def test_a_checkpoint_on_mit_predicts_the_same(tmp_path, kind, spelling):
    head, width, name, options = HEADS[kind]
    torch.manual_seed(0)
    module = with_statistics(Network(head(3, width)))
    state = numbered(module.state_dict()) if spelling == "numbered" else module.state_dict()
    torch.save({"state_dict": dict(state), "meta": {"CLASSES": list(CLASSES)}}, tmp_path / "iter.pth")
    start = read_start(tmp_path / "iter.pth")
    assert (start.network.name, start.network.options) == (name, options)
    assert start.classes == CLASSES
    assert not [note for note in start.notes if "left out" in note]
    with torch.no_grad():
        theirs = module(image())
    torch.testing.assert_close(logits_of(start)[0], theirs, atol=1e-5, rtol=1e-4)


def test_mmsegmentation_1_keeps_classes_and_an_auxiliary_head_elsewhere(tmp_path):
    module = with_statistics(Network(ConvolvedHead(3)))
    state = dict(numbered(module.state_dict())) | {"auxiliary_head.conv_seg.bias": torch.ones(3)}
    meta = {"dataset_meta": {"classes": CLASSES, "palette": [[0, 0, 0]] * 3}, "iter": 3}
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "iter_3.pth")
    start = read_start(tmp_path / "iter_3.pth")
    assert start.classes == CLASSES
    assert any("auxiliary_head left out" in note for note in start.notes)


def test_a_head_with_another_norm_is_refused_by_name(tmp_path):
    module = Network(ConvolvedHead(3))
    state = {name.replace(".bn.", ".gn."): tensor for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "gn.pth")
    with pytest.raises(SegRefineryError, match=r"gn\.pth: decode_head\.convs\.0\.gn\.weight: .*with batch norm"):
        read_start(tmp_path / "gn.pth")


def test_a_student_is_read_from_among_teacher_and_reference(tmp_path):
    module = with_statistics(Network(DAFormerHead(3)))
    state = {f"{who}.{name}": t for who in ("model", "ema_model") for name, t in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "latest.pth")
    start = read_start(tmp_path / "latest.pth")
    assert any("ema_model left out" in note for note in start.notes)


# What stands before the names of students and of what the projects keep beside them.
PROJECTS = {
    "HRDA, as it is": ("", (), ""),
    "HRDA": ("model.", ("ema_model.", "imnet_model."), "ema_model, imnet_model left out"),
    "MIC": (
        "model.",
        ("ema_model.ema_model.", "imnet_model.", "mic.teacher.ema_model."),
        "ema_model, imnet_model, mic left out",
    ),
    "HRDA of several GPUs": (
        "module.model.",
        ("module.ema_model.", "module.imnet_model."),
        "module.ema_model, module.imnet_model left out",
    ),
    "HRDA inside a trainer": ("net.model.", ("net.ema_model.",), "net.ema_model left out: the student (net.model)"),
}


@pytest.mark.parametrize("project", PROJECTS)
def test_a_checkpoint_of_two_scales_predicts_the_same(tmp_path, project):
    root, others, left_out = PROJECTS[project]
    torch.manual_seed(0)
    module = with_statistics(HRDANetwork(3))
    state = {f"{root}{name}": tensor for name, tensor in module.state_dict().items()}
    state |= {
        f"{other}{name}": torch.zeros_like(each) for other in others for name, each in module.state_dict().items()
    }
    torch.save({"meta": {"CLASSES": CLASSES, "PALETTE": []}, "state_dict": state}, tmp_path / "latest.pth")
    start = read_start(tmp_path / "latest.pth")
    assert start.network.name == "hrda:daformer_b0"
    said = [note for note in start.notes if "left out" in note]
    assert len(said) == bool(others)
    assert all(note.startswith(left_out) for note in said)
    assert (f"the prefix {root!r} was taken off the names" in start.notes) == bool(root)
    assert not any("tensors are not the network's" in note for note in start.notes)
    with torch.no_grad():
        theirs = module(image(64, 128))
    torch.testing.assert_close(logits_of(start, of=image(64, 128))[0], theirs, atol=1e-5, rtol=1e-4)


@pytest.fixture
def shallow(monkeypatch):
    """ResNet-101 of fewer blocks."""
    monkeypatch.setattr(torchvision.models, "resnet101", lambda **options: ResNet(Bottleneck, list(BLOCKS), **options))


@pytest.mark.parametrize(
    ("used", "middle", "root", "dated"),
    [(2, True, "", True), (4, True, "module.", False), (4, False, "", False), (2, True, "net.model.", False)],
    ids=["AdaptSegNet", "ADVENT of two levels", "ADVENT", "AdaptSegNet inside a trainer"],
)
def test_deeplab_of_adaptsegnet_predicts_the_same(tmp_path, shallow, used, middle, root, dated):
    """Its code reads images blue first, from 0 to 255 less a mean; old files have no counters."""
    torch.manual_seed(0)
    module = with_statistics(ResNetMulti(3, used, middle))
    state = {f"{root}{name}": tensor for name, tensor in module.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if not (dated and name.endswith("num_batches_tracked"))}
    torch.save(state, tmp_path / "GTA2Cityscapes.pth")
    asked = ModelSettings(name="deeplabv2_resnet101", options={} if used == 2 else {"aspp_bug_compat": False})
    start = read_start(tmp_path / "GTA2Cityscapes.pth", asked)
    assert any("aspp_bug_compat: false" in note for note in start.notes) == (used == 2)
    start.classes = CLASSES
    network, _ = start.build(CLASSES)
    mean, std = (torch.tensor(triple)[:, None, None] for triple in network.normalization)
    with torch.no_grad():
        theirs, ours = module(image()), network.eval()((image() - mean) / std)
    assert (ours.aux_logits is not None) == middle
    torch.testing.assert_close(ours.logits, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("end", ["decode_head.conv_seg.weight", "layer6.conv2d_list.0.weight"])
def test_of_two_networks_of_unknown_names_one_has_to_be_saved_alone(tmp_path, end):
    names = ("backbone.patch_embed1.proj.weight", "layer4.2.conv3.weight", end)
    state = {f"{who}.{name}": torch.ones(1) for who in ("day", "night") for name in names}
    torch.save({"state_dict": state}, tmp_path / "both.pth")
    with pytest.raises(SegRefineryError, match=r"both\.pth: holds several such networks \(day, night\)"):
        read_start(tmp_path / "both.pth")


def test_another_backbone_is_refused_by_name(tmp_path):
    state = {"backbone.stem.0.weight": torch.ones(1), "decode_head.conv_seg.weight": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "r101.pth")
    with pytest.raises(SegRefineryError, match=r"r101\.pth: its backbone is no Mix Transformer.*stem"):
        read_start(tmp_path / "r101.pth")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_another_network_lists_the_nearest_names(tmp_path):
    small = build_model(ModelSettings(name="small"), 3)
    state = {name.replace("classifier", "classifer"): tensor for name, tensor in small.state_dict().items()}
    torch.save(state, tmp_path / "small.pth")
    with pytest.raises(SegRefineryError, match=r"classifier.*the nearest there: .*classifer"):
        read_start(tmp_path / "small.pth", ModelSettings(name="small"))


def test_a_file_without_a_network_asks_for_it(tmp_path):
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "some.pth")
    with pytest.raises(SegRefineryError, match=r"of which network.*model\.name="):
        read_start(tmp_path / "some.pth")


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(SegRefineryError, match="could run code"):
        read_start(tmp_path / "evil.ckpt", ModelSettings(name="small"))
    assert not (tmp_path / "pwned").exists()


def test_what_is_no_model_lists_what_is(tmp_path):
    with pytest.raises(SegRefineryError, match="save_pretrained"):
        read_start(tmp_path)
    with pytest.raises(SegRefineryError, match="no such model"):
        read_start(tmp_path / "nothing")


def test_classifiers_are_the_tensors_with_a_row_a_class():
    names = class_tensors(ModelSettings(name="small"))
    assert names
    assert all("classifier" in name for name in names)


def test_a_model_folder_of_ours_that_is_damaged_says_what_is_wrong(tmp_path):
    network = build_model(ModelSettings(name="small", weights="none"), 2)
    config = NetworkConfig(
        model=ModelSettings(name="small"), space="two", classes=("road", "car"), colors=((0, 0, 0), (1, 1, 1))
    )
    save_network(tmp_path, network, config)
    assert read_start(tmp_path).classes == ("road", "car")
    description = json.loads((tmp_path / "config.json").read_text())
    for change, message in (({"classes": 5}, "classes: "), ({"format": 3}, "format 3, but this version reads")):
        (tmp_path / "config.json").write_text(json.dumps(description | change))
        with pytest.raises(SegRefineryError, match=f"config.json: {message}"):
            read_start(tmp_path)
