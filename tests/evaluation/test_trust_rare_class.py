"""The verdict where one class is rare: networks trained for a moment on a background of 96 %, and shares by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrefinery.data.transforms import DataSettings, resize_for_evaluation
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.evaluation.inference import logits_at
from segrefinery.evaluation.trust import Observation, look, verdict
from segrefinery.evaluation.trust.verdict import collapse_signs
from segrefinery.models import ModelSettings, build_model

DATA = DataSettings(crop=(64, 64))
PRIOR = torch.tensor([1 - 256 / 6144, 256 / 6144])


class Boxes:
    """Images of 64 x 96, sky above road, and a box of 16 x 16, the only thing that is not background."""

    def __init__(self, light, count=12):
        self.light, self.count = light, count

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{self.light}/{index}"

    def _place(self, index):
        random = torch.Generator().manual_seed(index)
        return [int(torch.randint(0, most, (1,), generator=random)) for most in (48, 80)]

    def image(self, index):
        top, left = self._place(index)
        picture = torch.full((3, 64, 96), 110.0)
        picture[:, :32] = torch.tensor([130.0, 160, 200])[:, None, None]
        picture[:, top : top + 16, left : left + 16] = torch.tensor([200.0, 90, 60])[:, None, None]
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(index)) * 25
        return (picture * self.light + noise).clamp(0, 255).to(torch.uint8)

    def label(self, index):
        top, left = self._place(index)
        label = torch.zeros(64, 96, dtype=torch.int64)
        label[top : top + 16, left : left + 16] = 1
        return label


SOURCE, TARGET = Boxes(1.0), Boxes(0.7)


def trained(network, dataset, steps):
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    images = torch.stack([resize_for_evaluation(dataset.image(i), DATA) for i in range(len(dataset))])
    labels = torch.stack([dataset.label(i) for i in range(len(dataset))])
    network.train()
    for step in range(steps):
        batch = torch.arange(2 * step, 2 * step + 2) % len(dataset)
        loss = F.cross_entropy(logits_at(network, images[batch], (64, 96)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def miou(network):
    matrix = ConfusionMatrix(2)
    for index in range(len(TARGET)):
        image = resize_for_evaluation(TARGET.image(index), DATA)[None]
        matrix.update(logits_at(network, image, (64, 96)).argmax(dim=1)[0], TARGET.label(index))
    return matrix.miou


def start(steps, bias):
    """A source model, its bias for the box raised: it sees boxes where there are none."""
    torch.manual_seed(0)
    network = trained(build_model(ModelSettings(name="small", options={"width": 16, "blocks": 1}), 2), SOURCE, steps)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 2:
                layer.bias[1] += bias
    return network


def seen(network):
    return look(network, TARGET, DATA, 2, pixels=1000)


@pytest.mark.parametrize(("before", "after", "bias", "gain"), [(60, 5, 1.5, 0.005), (40, 150, 4.0, 0.5)])
def test_to_take_back_false_positives_is_no_collapse(before, after, bias, gain):
    source_only = start(before, bias)
    adapted = trained(copy.deepcopy(source_only), TARGET, after)
    assert miou(adapted) > miou(source_only) + gain
    candidate, reference = seen(adapted), seen(source_only)
    assert candidate.shares[0] > max(0.9, float(reference.shares[0]))
    assert collapse_signs(candidate, reference, PRIOR) == []
    assert verdict(candidate, reference, PRIOR).word != "worse"


def by_hand(shares, images=12, pixels=2000):
    """A model that is sure and steady and gives each class this share of every image, the rare ones last."""
    edges = (torch.tensor(shares).cumsum(0) * pixels).round().long()
    classes = torch.bucketize(torch.arange(pixels), edges, right=True).expand(images, -1)
    one_hot = F.one_hot(classes, len(shares))
    counts = torch.diag_embed(one_hot.sum(dim=1))
    views = dict.fromkeys(("photometric", "flip", "scale", "mix"), counts)
    names = [str(index) for index in range(images)]
    return Observation(names, one_hot.half(), views, torch.ones(images, pixels, dtype=torch.bool), torch.zeros(images))


@pytest.mark.parametrize("prior", [None, torch.tensor([0.95, 0.05])])
@pytest.mark.parametrize("kept", [0.0, 0.01])
def test_a_rare_class_that_is_lost_is_a_collapse(kept, prior):
    reference = by_hand([0.94, 0.06])
    found = verdict(by_hand([1 - kept, kept]), reference, prior)
    assert found.word == "worse"
    assert any("one class covers" in reason for reason in found.reasons)


def test_a_long_tail_that_comes_to_what_the_source_labels_say_has_not_collapsed():
    tail = torch.tensor([0.91, 0.04, 0.03, 0.01, 0.005, 0.005])
    reference = by_hand([0.40, 0.50, 0.04, 0.03, 0.02, 0.01])
    signs = collapse_signs(by_hand(tail.tolist()), reference, tail)
    assert not any("covers" in sign or "moved" in sign for sign in signs)
    assert any("covers" in sign for sign in collapse_signs(by_hand(tail.tolist()), reference))
