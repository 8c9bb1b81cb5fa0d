"""Labels strip by strip: those of the whole picture, wherever one begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrefinery.core.resize import bilinear
from segrefinery.data.strips import WholePicture
from segrefinery.data.transforms import DataSettings, evaluation_size
from segrefinery.evaluation import strips
from segrefinery.evaluation.inference import predict_probs
from segrefinery.evaluation.strips import label_strips, window_for
from segrefinery.models.segmenter import Prediction

SIZE = (90, 161)


class Pointwise(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, image):
        return Prediction(5 * self.layer(image), image)


class Everywhere(Pointwise):
    def predict(self, image, size):
        return bilinear(5 * self.layer(image), size)


def picture():
    coarse = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(1))
    image = (nn.functional.interpolate(coarse, SIZE, mode="bilinear")[0] * 255).to(torch.uint8)
    return image, WholePicture(SIZE, lambda: image)


def joined(found):
    assert [strip.top for strip in found] == [sum(len(part.label) for part in found[:i]) for i in range(len(found))]
    return torch.cat([strip.label for strip in found]), torch.cat([strip.confidence for strip in found])


@pytest.mark.parametrize("out", [SIZE, (45, 80), (200, 300)])
@pytest.mark.parametrize("short_side", [None, 40, 133])
@pytest.mark.parametrize("window", [None, (32, 32), (24, 64)])
def test_strips_are_the_labels_of_the_whole_from_wherever_one_goes_on(out, short_side, window, monkeypatch):
    monkeypatch.setattr(strips, "FLOATS", 4 * out[1] * 7)
    network, data = Pointwise().eval(), DataSettings(short_side=short_side, crop=(8, 8))
    image, shown = picture()
    found = list(label_strips(network, shown, data, window, out))
    label, confidence = joined(found)
    whole = predict_probs(network, image, data, window, evaluation_size(SIZE, data))
    best, wanted = bilinear(whole[None], out)[0].max(dim=0)
    assert float((label != wanted).float().mean()) < 1e-3  # ties alone
    assert int((confidence.int() - (best * 255).round().int()).abs().max()) <= 1
    for strip in found[1 :: max(1, len(found) // 3)]:
        again = list(label_strips(network, shown, data, window, out, strip.top))
        assert again[0].top == strip.top
        assert torch.equal(torch.cat([part.label for part in again]), label[strip.top :])
        assert torch.equal(torch.cat([part.confidence for part in again]), confidence[strip.top :])


def test_a_network_that_decodes_anywhere_is_asked_at_the_size_of_the_result():
    network, data = Everywhere().eval(), DataSettings(crop=(8, 8))
    image, shown = picture()
    label, _ = joined(list(label_strips(network, shown, data, (32, 32), (180, 322))))
    assert torch.equal(label, predict_probs(network, image, data, (32, 32), (180, 322)).argmax(dim=0))


def test_windows_are_chosen_for_what_is_large_and_never_larger_than_the_picture():
    data = DataSettings(crop=(600, 100))
    assert window_for((2000, 3000), data, None) == (2000, 3000)
    assert window_for((4000, 3000), data, None) == (600, 512)
    assert window_for((100, 3000), data, (512, 512)) == (100, 512)
