"""Which classes are uncertain, and what a way of sampling gains."""

import pytest
import torch
from torch import nn

from segrefinery.models.segmenter import Prediction
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture.formulas import class_entropies, class_gains, uncertain_classes
from toys import ToySegmenter, unlabeled


class Echo(nn.Module):
    """Its images are the logits."""

    def forward(self, image):
        return Prediction(image, image)


def test_entropies_by_hand_and_a_class_never_predicted():
    batch = unlabeled(1, (1, 3))
    batch.image = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]]).log().T.reshape(1, 3, 1, 3)
    entropies = class_entropies(Echo(), [batch, batch], upsample=False)
    each = normalized_entropy(batch.image.softmax(1))[0, 0]
    assert entropies.tolist() == pytest.approx([(each[0] + each[1]).item() / 2, each[2].item(), 1.0])


def test_streaming_equals_one_batch_and_upsampling_keeps_the_scale():
    torch.manual_seed(0)
    net, batch = ToySegmenter().eval(), unlabeled(4)
    parts = [type(batch)(batch.image[i : i + 1], batch.index[i : i + 1]) for i in range(4)]
    assert torch.allclose(class_entropies(net, [batch]), class_entropies(net, parts))
    fine, coarse = (class_entropies(net, [batch], upsample=up) for up in (True, False))
    assert (fine - coarse).abs().max() < 0.1


def test_uncertain_classes():
    entropies = torch.tensor([0.2, 0.9, 0.5, 0.9])
    assert uncertain_classes(entropies, 3) == [1, 3, 2]
    assert uncertain_classes(entropies, 99) == [1, 3, 2, 0]
    assert uncertain_classes(torch.full((4,), 0.5), 2) == [0, 1]
    with pytest.raises(ValueError, match="k"):
        uncertain_classes(entropies, 0)


def test_the_gain_is_pixels_seen_over_pixels_seen_evenly():
    counts = torch.tensor([[10, 0, 0], [10, 5, 0], [10, 1, 0], [10, 0, 0]])
    gains = class_gains(counts, torch.tensor([0.1, 0.7, 0.1, 0.1]))
    assert gains[:2].tolist() == pytest.approx([1, (0.7 * 5 + 0.1) / 1.5])
    assert gains[2].isnan()
    assert class_gains(counts, torch.full((4,), 0.25))[:2].tolist() == pytest.approx([1, 1])
