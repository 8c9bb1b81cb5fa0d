"""Each network against the contract, and what is special about it."""

import copy

import pytest
import torch
from torch import nn

from models.contract import CLASSES, SegmenterContract
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.resize import bilinear
from segrefinery.models import ModelSettings, build_model, wrap
from segrefinery.models.deeplab import ASPP, DeepLabV2Settings, ResNet101, SEHead
from segrefinery.models.heads import conv_norm, joined
from segrefinery.models.padding import pad_to_multiple, unpad
from segrefinery.stages.optimizers import OptimizerSettings, parameter_groups


def meta(name: str, classes: int = 19, **options) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelSettings(name=name, weights="none", options=options), classes)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestSmall(SegmenterContract):
    name, stride, level_strides = "small", 4, (4, 8, 16)
    sizes = ((61, 83), (64, 96), (1, 1), (17, 5))

    def test_about_a_million_parameters(self):
        assert 0.9e6 < count(meta("small")) < 1.2e6

    def test_learns_two_classes_in_a_few_steps(self):
        model = self.build()
        image = torch.randn(4, 3, 32, 32)
        image[:, :, :, 16:] += 2
        label = torch.zeros(4, 8, 8, dtype=torch.long)
        label[:, :, 4:] = 1
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(30):
            loss = nn.functional.cross_entropy(model(image).logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.3

    def test_an_image_does_not_depend_on_its_batch_in_training(self):
        model = build_model(ModelSettings(options={"dropout": 0.0}), CLASSES).train()
        image = torch.randn(3, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model(image).logits[:1], model(image[:1]).logits, rtol=1e-4, atol=1e-5)


class TestDAFormer(SegmenterContract):
    name, stride, level_strides = "daformer:pvt_v2_b0", 4, (4, 8, 16, 32)
    options = {"auxiliary": True, "norm": "group"}  # noqa: RUF012


class TestSegFormer(SegmenterContract):
    name, stride, level_strides = "segformer_b0", 4, (4, 8, 16, 32)

    @classmethod
    def build(cls, seed=0):
        pytest.importorskip("transformers")
        return super().build(seed)


class TestDINOv2(SegmenterContract):
    name, stride, level_strides = "dinov2_small_reg", 3.5, (14, 14, 14, 14)
    options = {"checkpointing": True, "auxiliary": True}  # noqa: RUF012
    # The head enlarges whole patches.
    margin = 3

    def check_grid(self, found, size, stride):
        patches = [-(-side // 14) for side in size]
        assert list(found[-2:]) == [int(n * 14 / stride) for n in patches]

    def test_layer_decay_gives_each_block_its_own_rate(self, model):
        network, above = model.encoder.network, model.layers_above()
        assert above[id(network.norm.weight)] == above[id(network.blocks[11].mlp.fc1.weight)] == 0
        assert above[id(network.blocks[0].mlp.fc1.weight)] == 11
        assert above[id(network.patch_embed.proj.weight)] == above[id(network.pos_embed)] == 12
        assert above.keys() == {id(parameter) for parameter in model.backbone_parameters()}
        groups = parameter_groups(model, OptimizerSettings(lr=1.0, layer_decay=0.5, head_factor=10))
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert rates[id(network.blocks[9].mlp.fc1.weight)] == 0.25
        assert rates[id(model.head.classifier.weight)] == 10

    def test_checkpointing_does_not_change_the_gradient(self):
        image = torch.randn(1, 3, 28, 28)
        gradients = []
        for checkpointing in (False, True):
            torch.manual_seed(0)
            options = {"checkpointing": checkpointing, "norm": "group"}
            model = build_model(ModelSettings(name="dinov2_small", weights="none", options=options), CLASSES).train()
            torch.manual_seed(1)
            model(image).logits.square().mean().backward()
            gradients.append(model.encoder.network.blocks[3].mlp.fc1.weight.grad)
        torch.testing.assert_close(*gradients)


class TestDINOv3(SegmenterContract):
    """By timm's name; its positions are rotations, so that it takes any size."""

    name, stride, level_strides, margin = "vit:vit_tiny_patch16_dinov3_qkvb", 4, (16, 16, 16, 16), 3

    def test_layers_are_those_of_timm(self, model):
        network, above = model.encoder.network, model.layers_above()
        assert above[id(network.blocks[11].mlp.fc1.weight)] == above[id(network.norm.weight)] == 0
        assert above[id(network.patch_embed.proj.weight)] == above[id(network.reg_token)] == 12


def test_other_plain_transformers_and_what_is_none():
    """A pooling head with weights of its own (SigLIP's) is not kept; neither are the layers of an encoder of levels."""
    model = build_model(ModelSettings(name="vit:vit_base_patch32_siglip_256", weights="none"), 2)
    assert not any("attn_pool" in name for name in model.state_dict())
    assert min(model.layers_above().values()) == 0
    with pytest.raises(
        SegRefineryError, match=r"strides \[16, 16, 16\]; a plain vision transformer goes as vit:vit_tiny"
    ):
        build_model(ModelSettings(name="daformer:vit_tiny_patch16_224", weights="none"), 2)
    for name in ("resnet18", "swin_tiny_patch4_window7_224"):
        with pytest.raises(SegRefineryError, match=f"no plain vision transformer.*daformer:{name}"):
            build_model(ModelSettings(name=f"vit:{name}", weights="none"), 2)


def test_patches_behind_a_convolutional_stem():
    """Their cells are as large as both make them."""
    model = build_model(ModelSettings(name="vit:vit_tiny_r_s16_p8_224", weights="none"), 2).eval()
    assert model.largest_stride == 32
    assert model(torch.rand(1, 3, 64, 72)).levels[0].shape[-2:] == (2, 3)


def test_a_layer_decay_without_layers_is_said(caplog):
    model = build_model(ModelSettings(name="small"), 2)
    parameter_groups(model, OptimizerSettings(lr=1.0, layer_decay=0.5))
    assert "all train at one rate" in caplog.text


class TestFCN8s(SegmenterContract):
    name, stride, level_strides, options = "fcn8s_vgg16", 8, (8, 16, 32), {"width": 16}
    # At least four cells at stride 32: on 2 x 3 cells torch's bf16 gradient of a 7x7 convolution may be garbage.
    sizes = ((125, 131), (32, 64))


class TestSMP(SegmenterContract):
    name, stride, level_strides = "smp:fpn/mobilenet_v2", 4, (2, 4, 8, 16, 32)

    @classmethod
    def build(cls, seed=0):
        pytest.importorskip("segmentation_models_pytorch")
        return super().build(seed)


def test_deeplab_forward_at_its_own_stride():
    model = build_model(ModelSettings(name="deeplabv2_resnet101", weights="none"), 3).eval()
    with torch.no_grad():
        seen = model(torch.randn(1, 3, 33, 64))
    assert seen.logits.shape == (1, 3, 5, 9)
    assert seen.features.shape == (1, 2048, 5, 9)
    assert seen.aux_logits.shape == (1, 3, 5, 9)
    assert [level.shape[1] for level in seen.levels] == list(model.level_channels)
    assert model.learner_channels == (2048, 1024)


def test_deeplab_dilations_and_strides():
    with torch.device("meta"):
        plain, caffe = ResNet101(pretrained=False), ResNet101(pretrained=False, caffe_stride=True)
    assert {block.conv2.dilation for block in plain.layer3} == {(2, 2)}
    assert {block.conv2.dilation for block in plain.layer4} == {(4, 4)}
    assert (plain.layer2[0].conv1.stride, plain.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert (caffe.layer2[0].conv1.stride, caffe.layer2[0].conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize("mode", ["train", "frozen_affine", "frozen"])
def test_deeplab_batch_norm_modes(mode):
    norm = meta("deeplabv2_resnet101", batch_norm=mode).train().encoder.bn1
    assert norm.weight.requires_grad == (mode == "train")
    assert norm.training == (mode != "frozen")


def test_aspp_is_the_sum_of_its_branches_and_the_bug_keeps_two():
    torch.manual_seed(0)
    head, x = ASPP(4, 3), torch.randn(1, 4, 5, 5)
    expected = sum(branch(x) for branch in head.branches)
    torch.testing.assert_close(head(x)[0], expected)
    assert [branch.dilation[0] for branch in ASPP(4, 3, bug_compat=True).branches] == [6, 12]


def test_se_head_features_are_what_the_classifier_reads():
    head = SEHead(32, 3).eval()
    logits, features = head(torch.randn(2, 32, 4, 4))
    assert features.shape == (2, 256, 4, 4)
    torch.testing.assert_close(logits, head.classifier(features))
    assert head.classifier.bias is None
    assert DeepLabV2Settings().head == "aspp"


def test_published_parameter_counts():
    assert count(meta("deeplabv2_resnet101", head="se", auxiliary=False)) == 65_063_568
    assert count(meta("deeplabv2_resnet101", 16, head="se", auxiliary=False)) == 65_062_800
    deeplab = meta("deeplabv2_resnet101")
    assert (count(deeplab.encoder), count(deeplab.head)) == (42_500_160, 1_400_908)
    assert count(meta("deeplabv2_resnet101", aspp_bug_compat=True).head) == 700_454


def test_published_parameter_counts_of_daformer():
    pytest.importorskip("transformers")
    model = meta("daformer_b5")
    assert count(model.encoder) == 81_443_008
    assert count(model.head) == 3_712_275
    assert (count(model.head.embeddings), count(model.head.fusion)) == (263_168, 3_444_224)


def test_unpad_shows_the_image_and_nothing_else():
    ramp = torch.arange(20.0).expand(1, 1, 13, 20)
    padded = pad_to_multiple(ramp, 14)
    assert padded.shape == (1, 1, 14, 28)
    pooled = nn.functional.avg_pool2d(padded, 2)
    seen = unpad(pooled, padded.shape[-2:], ramp.shape[-2:])
    assert seen.shape == (1, 1, 7, 10)
    torch.testing.assert_close(seen[0, 0, 3], nn.functional.avg_pool2d(ramp[..., :12, :], 2)[0, 0, 3])
    # Where the cells do not line up, a ramp stays a ramp, up to the centre of the first cell.
    third = unpad(torch.arange(4.0).expand(1, 1, 1, 4) * 7 + 3, (7, 28), (7, 20))
    torch.testing.assert_close(third[0, 0, 0], ((torch.arange(3.0) + 0.5) * 20 / 3 - 0.5).clamp(min=3))
    assert unpad(pooled, (14, 28), (14, 28)) is pooled


class TestWrap:
    class Net(nn.Module):
        def __init__(self, out):
            super().__init__()
            self.body, self.top, self.out = nn.Conv2d(3, 7, 3, 2, 1), nn.Conv2d(7, CLASSES, 1), out

        def forward(self, x):
            return self.out(self.top(self.body(x)))

    @pytest.mark.parametrize(
        "out",
        [lambda y: y, lambda y: {"out": y, "aux": y * 2}, lambda y: type("Output", (), {"logits": y})()],
        ids=["tensor", "mapping", "object"],
    )
    def test_kinds_of_output(self, out):
        model = wrap(self.Net(out), CLASSES)
        seen = model(torch.randn(2, 3, 9, 13))
        assert seen.logits.shape == seen.features.shape == (2, CLASSES, 5, 7)
        assert model.feature_channels == CLASSES
        assert len(model.learner_channels) == len(seen.learners)

    def test_named_layer_and_copies(self):
        model = wrap(self.Net(lambda y: y), CLASSES, feature_layer="body")
        twin, image = copy.deepcopy(model), torch.randn(1, 3, 8, 8)
        nn.init.zeros_(twin.module.body.weight)
        assert model.feature_channels == 7
        assert torch.equal(model(image).features, model.module.body(image))
        assert torch.equal(twin(image).features, twin.module.body(image))
        assert wrap(model, CLASSES) is model

    def test_bad_modules(self):
        with pytest.raises(SegRefineryError, match=r"unknown layer of Net 'bdy'. Did you mean 'body'"):
            wrap(self.Net(lambda y: y), CLASSES, feature_layer="bdy")
        with pytest.raises(SegRefineryError, match="expected 1 x 4 x h x w"):
            wrap(self.Net(lambda y: y), 4)
        with pytest.raises(SegRefineryError, match="returned tuple"):
            wrap(self.Net(lambda y: (y,)), CLASSES)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "daformer:pvt_v2_b0", "dinov2_small_reg"])
@pytest.mark.parametrize("relu", [True, False])
def test_a_head_without_its_last_relu_gives_features_of_both_signs(name, relu):
    torch.manual_seed(0)
    model = build_model(ModelSettings(name=name, weights="none", options={"relu": relu}), 3).eval()
    with torch.no_grad():
        seen = model(torch.randn(1, 3, 64, 64))
    assert bool((seen.features < 0).any()) == (not relu)
    torch.testing.assert_close(model.head.classifier(seen.features), seen.logits)  # it reads just these


def test_maps_meet_a_convolution_before_or_after_they_are_joined():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 8, 6), torch.randn(2, 5, 4, 3)]
    for norm in ("batch", "none"):
        block = conv_norm(8, 4, norm=norm)
        dense = block(torch.cat([bilinear(each, (8, 6)) for each in maps], dim=1))
        torch.testing.assert_close(joined(block, maps, (8, 6)), dense)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 8), (16, 2), (100, 10), (264, 24), (4, 1), (13, 1)])
def test_a_group_norm_has_groups_that_divide_its_channels(channels, groups):
    block = conv_norm(8, channels, norm="group")
    assert block[1].num_groups == groups
    assert block(torch.rand(2, 8, 4, 4)).shape == (2, channels, 4, 4)
