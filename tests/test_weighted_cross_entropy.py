import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import segrefinery
from segrefinery.core.errors import SegRefineryError
from segrefinery.losses import weighted_cross_entropy
from segrefinery.recipe import load_recipe


@pytest.mark.parametrize("size", [(5, 6), (20, 24)])
def test_it_is_the_pixelwise_loss_over_all_pixels_and_so_is_its_gradient(size):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=rng)
    label = torch.randint(0, 4, (2, *size), generator=rng)
    label[:, :2] = 255
    weight = torch.rand(2, *size, generator=rng)

    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = weighted_cross_entropy(ours, label, weight)
    enlarged = F.interpolate(theirs, size, mode="bilinear", align_corners=False)
    log_probs = enlarged.log_softmax(dim=1)
    picked = log_probs.gather(1, label.masked_fill(label == 255, 0)[:, None])[:, 0]
    expected = -(picked * (label != 255) * weight).sum() / label.numel()
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_by_hand():
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]])  # two pixels, two classes
    label = torch.tensor([[[1, 0]]])
    expected = (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-2.0)))) / 2
    torch.testing.assert_close(weighted_cross_entropy(logits, label), expected)
    assert weighted_cross_entropy(logits, torch.full_like(label, 255)) == 0


def logits_of_a_coin():
    return torch.zeros(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)


def test_ignored_pixels_count_unless_it_is_a_mean_over_labelled_ones():
    label = torch.tensor([[[0, 1], [255, 255]]])
    weight = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    of_all = weighted_cross_entropy(logits_of_a_coin(), label)
    assert of_all.item() == pytest.approx(math.log(2) / 2)
    of_labelled = weighted_cross_entropy(logits_of_a_coin(), label, mean_over="labelled")
    assert of_labelled.item() == pytest.approx(math.log(2))
    one_weighs = weighted_cross_entropy(logits_of_a_coin(), label, weight, mean_over="labelled")
    assert one_weighs.item() == pytest.approx(math.log(2))
    half = weighted_cross_entropy(logits_of_a_coin(), label, weight / 2, mean_over="labelled")
    assert half.item() == pytest.approx(math.log(2) / 2)


def test_the_mean_over_labelled_pixels_and_its_gradient_are_torchs():
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 5, 7)).masked_fill(torch.rand(2, 5, 7) < 0.4, 255)
    ours, theirs = (torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    loss = weighted_cross_entropy(ours.requires_grad_(), label, mean_over="labelled")
    wanted = F.cross_entropy(theirs.requires_grad_(), label, ignore_index=255)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(each, maps)[0] for each, maps in ((loss, ours), (wanted, theirs))))


def test_without_a_labelled_pixel_it_is_zero():
    loss = weighted_cross_entropy(logits_of_a_coin(), torch.full((1, 2, 2), 255), mean_over="labelled")
    assert loss.item() == 0


def test_other_losses_say_that_they_are_means_over_all_pixels():
    with pytest.raises(SegRefineryError, match=r"weights\.mean_over: labelled goes with target_loss: cross_entropy"):
        load_recipe("uncerda", overrides=["stages.adapt.weights.mean_over=labelled"])


def test_no_loss_is_torchs_own_of_images():
    """It has no deterministic form on a GPU, where the same run would then give other weights."""
    sources = Path(segrefinery.__file__).parent.rglob("*.py")
    torchs = re.compile(r"\b(?:F\.cross_entropy|CrossEntropyLoss|nll_loss|NLLLoss)\b")
    assert not [path.name for path in sources if torchs.search(path.read_text(encoding="utf-8"))]
