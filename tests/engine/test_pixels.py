"""The network says how its images are normalised, and what batches it can learn from."""

import json
import logging

import pytest
import torch
from torch import nn

from runs import tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import IMAGENET, Normalization
from segrefinery.data.transforms import DataSettings, resize_for_evaluation
from segrefinery.engine.fits import refuse_unfit_batches
from segrefinery.engine.model import load
from segrefinery.evaluation.inference import predict_probs
from segrefinery.models import ModelSettings, build_model, wrap
from segrefinery.models.segmenter import normalization_of, reading
from segrefinery.models.small import Small
from segrefinery.stages.supervised import SupervisedSettings
from toys import ToySegmenter

HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("small", IMAGENET),
        ("efficientnet_lite0", HALF),
        ("daformer:tf_efficientnet_lite0", HALF),
        ("hrda:efficientnet_lite0", HALF),
        ("daformer:resnet18", IMAGENET),
    ],
)
def test_networks_know_the_statistics_of_their_pre_training(name, wanted):
    model = build_model(ModelSettings(name=name, weights="none"), 3)
    assert model.normalization == wanted
    assert normalization_of(nn.Sequential(model)) == wanted


def test_predictions_read_images_as_the_network_wants_them_unless_told():
    image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    network = ToySegmenter().eval()
    network.normalization = HALF

    def by_hand(normalization):
        seen = resize_for_evaluation(image, DataSettings().read_by(normalization))
        logits = network(seen[None]).logits
        return nn.functional.interpolate(logits, (16, 24), mode="bilinear")[0].softmax(dim=0)

    with torch.no_grad():
        torch.testing.assert_close(predict_probs(network, image, DataSettings()), by_hand(HALF))
        told = DataSettings(pixel_mean=IMAGENET.mean, pixel_std=IMAGENET.std)
        torch.testing.assert_close(predict_probs(network, image, told), by_hand(IMAGENET))


def test_a_run_trains_and_saves_with_the_networks_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr(Small, "normalization", HALF)
    seen = []
    forward = Small.forward
    monkeypatch.setattr(Small, "forward", lambda self, image: (seen.append(image.min()), forward(self, image))[1])
    run = tiny_run(tmp_path / "run", recipe="source_only")
    assert min(seen) >= -1  # ImageNet's darkest pixel is -2.1
    saved = json.loads((run / "source_model" / "config.json").read_text())["data"]
    assert (saved["pixel_mean"], saved["pixel_std"]) == ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    monkeypatch.setattr(Small, "normalization", IMAGENET)
    assert load(run).data.normalization == HALF


def test_a_teacher_of_other_statistics_sees_the_same_pixels():
    teacher = ToySegmenter().eval()
    image = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        expected = teacher(
            (image - torch.tensor(IMAGENET.mean)[:, None, None]) / torch.tensor(IMAGENET.std)[:, None, None]
        )
        found = reading(teacher, HALF)((image - 0.5) / 0.5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_unknown_statistics_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert wrap(nn.Conv2d(3, 2, 1), 2).normalization == IMAGENET
        assert "pixel mean and deviation of Conv2d are not known" in caplog.text
        caplog.clear()
        assert wrap(nn.Conv2d(3, 2, 1), 2, normalization=HALF).normalization == HALF
    assert not caplog.text


class TestBatches:
    def check(self, crop=(64, 64), batch=2, parts=1, name="efficientnet_lite0", stage=None):
        network = build_model(ModelSettings(name=name, weights="none"), 3)
        settings = SupervisedSettings(steps=1, **(stage or {}))
        refuse_unfit_batches("source", settings, network, (DataSettings(crop=crop, batch=batch),), parts)

    def test_a_crop_smaller_than_the_largest_stride(self):
        with pytest.raises(SegRefineryError, match=r"data\.crop: 16 x 64 pixels .* set at least 32 x 32"):
            self.check(crop=(16, 64))
        with pytest.raises(SegRefineryError, match=r"stages\.source\.crop: 31 x 64 pixels"):
            self.check(stage={"crop": (31, 64)})

    def test_one_value_a_channel(self):
        with pytest.raises(SegRefineryError, match=r"data\.batch: batch norm has one value .* batch of at least 4"):
            self.check(crop=(32, 32), batch=2, parts=2)

    def test_one_image_a_batch_is_said(self, caplog):
        self.check(batch=1)
        assert "data.batch: batch norm learns from one image at a time" in caplog.text
        caplog.clear()
        self.check(batch=1, name="small")  # group norm
        self.check(batch=2)
        assert not caplog.text
