"""Images of sizes that no stride divides: a model of another library says of them what its library says."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from foreign_mit import ConvolvedHead, DAFormerHead, Network, SegFormerHead
from models.foreign.tiny import CLASSES, configurations, with_statistics
from segrefinery.evaluation.inference import logits_at
from segrefinery.models.start import read_start

hf = pytest.importorskip("transformers")

STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = {
    "swin": lambda: hf.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=STAGES
    ),
    "resnet": lambda: hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 32], depths=[1] * 4, out_features=STAGES
    ),
    "beit": lambda: hf.BeitConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64,
        out_features=STAGES, use_absolute_position_embeddings=True,
    ),
}  # fmt: skip
FAMILIES = [*configurations(), *(f"upernet on {backbone}" for backbone in BACKBONES)]
ODD = {"dpt": [(65, 65), (80, 80), (35, 47)]}
"""Of DPT, whose library takes as many rows of patches as columns alone."""
LEAST = {
    "segformer": 29, "upernet": 32, "beit": 32, "dpt": 16, "mobilevit": 1, "mobilevitv2": 33, "mobilenet_v2": 1,
    "upernet on swin": 1, "upernet on resnet": 1, "upernet on beit": 16,
}  # fmt: skip
"""The sides that each library takes at least."""


def varied(module):
    """Weights of such a size that the border shows in every logit; those of a new model say hardly anything."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
        for name, parameter in layer.named_parameters(recurse=False):
            if "position" in name:
                nn.init.normal_(parameter)
    return with_statistics(module)


def saved(folder, name):
    family, _, backbone = name.partition(" on ")
    config = configurations()[family]
    if backbone:
        config.backbone_config, config.auxiliary_in_channels = BACKBONES[backbone](), 32
    config.id2label = dict(enumerate(CLASSES))
    module = varied(hf.AutoModelForSemanticSegmentation.from_config(config))
    module.save_pretrained(folder)
    return module, read_start(folder).build(CLASSES)[0].eval()


def image(height, width):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def both(module, network, size):
    """Logits at the image's size, as a share of their spread."""
    wanted = image(*size).flip(1) if network.bgr else image(*size)
    theirs = interpolate(module(wanted).logits, size, mode="bilinear")
    return logits_at(network, image(*size), size) / theirs.std(), theirs / theirs.std()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_transformers_says_what_its_library_says(tmp_path, name):
    module, network = saved(tmp_path, name)
    for size in ODD.get(name, [(65, 83), (96, 130), (72, 104), (37, 61)]):
        ours, theirs = both(module, network, size)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in FAMILIES if LEAST[name] > 1])
def test_what_the_library_refuses_is_padded_and_nothing_else(tmp_path, name):
    module, network = saved(tmp_path, name)
    least = LEAST[name]
    ours, theirs = both(module, network, (least, least))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with torch.no_grad():
        with pytest.raises((RuntimeError, ValueError)):
            module(image(least - 1, least - 1))
        for size in ((least - 1, least - 1), (7, 3 * least)):
            assert logits_at(network, image(*size), size).isfinite().all()


@pytest.mark.parametrize("name", [name for name in FAMILIES if LEAST[name] == 1])
def test_what_the_library_takes_at_any_size_is_never_padded(tmp_path, name):
    module, network = saved(tmp_path, name)
    assert network.least == 1
    with torch.no_grad():
        pixel = image(1, 1).flip(1) if network.bgr else image(1, 1)
        torch.testing.assert_close(network(image(1, 1)).logits, module(pixel).logits, atol=1e-5, rtol=1e-5)


def test_dpt_is_padded_to_squares_where_its_grid_is_none(tmp_path):
    """Of 2 x 8 patches its library makes 4 x 4 without a word."""
    module, network = saved(tmp_path, "dpt")
    with torch.no_grad():
        padded = torch.nn.functional.pad(image(32, 128), (0, 0, 0, 96), mode="replicate")
        theirs, ours = module(padded).logits[..., :32, :], network(image(32, 128)).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.std()), rtol=0)


HEADS = {"segformer_b0": SegFormerHead, "mmsegmentation's": ConvolvedHead, "daformer_b0": DAFormerHead}


@pytest.mark.parametrize("head", HEADS)
def test_a_checkpoint_of_the_mix_transformer_says_what_its_own_code_says(tmp_path, head):
    module = varied(Network(HEADS[head](3)))
    torch.save({"state_dict": module.state_dict(), "meta": {"CLASSES": CLASSES}}, tmp_path / "iter.pth")
    network = read_start(tmp_path / "iter.pth").build(CLASSES)[0].eval()
    for size in ((65, 83), (96, 128), (72, 104), (29, 45)):
        with torch.no_grad():
            theirs = interpolate(module(image(*size)), size, mode="bilinear")
            ours = logits_at(network, image(*size), size)
        torch.testing.assert_close(ours / theirs.std(), theirs / theirs.std(), atol=1e-4, rtol=0)
    for size in ((28, 29), (7, 90)):
        with pytest.raises(RuntimeError):
            module(image(*size))
        with torch.no_grad():
            assert logits_at(network, image(*size), size).isfinite().all()


SMP = {
    "unet": {}, "unetplusplus": {}, "fpn": {}, "pspnet": {}, "deeplabv3": {"decoder_channels": 16},
    "deeplabv3plus": {}, "pan": {}, "pan of stride 32": {"encoder_output_stride": 32}, "linknet": {"encoder_depth": 4},
}  # fmt: skip
TAKEN = {
    "unet": (1, 1), "unetplusplus": (32, 32), "fpn": (32, 32), "pspnet": (8, 8), "deeplabv3": (8, 8),
    "deeplabv3plus": (16, 16), "pan": (16, 128), "pan of stride 32": (32, 256), "linknet": (16, 16),
}  # fmt: skip
"""What the library wants sides to be multiples of, and at least."""


@pytest.mark.parametrize("name", SMP)
def test_a_network_of_smp_says_what_its_library_says_and_reads_all_others(tmp_path, name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    module = smp.create_model(name.split()[0], "resnet18", encoder_weights=None, classes=3, **SMP[name])
    module = varied(module)
    module.save_pretrained(tmp_path)
    start = read_start(tmp_path)
    start.classes = CLASSES
    network = start.build(CLASSES)[0].eval()
    multiple, least = TAKEN[name]
    assert (network.multiple, network.least) == (multiple, least)
    assert network.graph_least == (2 * least if least > multiple else 1)  # a graph has no coarsest level of one cell
    for rows, columns in ((0, 0), (1, 3)):
        size = (least + rows * multiple, least + columns * multiple)
        with torch.no_grad():
            theirs = module(image(*size))
            ours = logits_at(network, image(*size), size)
        torch.testing.assert_close(ours / theirs.std(), theirs / theirs.std(), atol=1e-4, rtol=0)
    with torch.no_grad():
        for size in ((7, 9), (33, 47), (least, least + 1)):
            assert logits_at(network, image(*size), size).isfinite().all()
        if multiple > 1:
            with pytest.raises(RuntimeError):
                module(image(least - multiple, least))
