import math

import pytest
import torch
import torch.nn.functional as F

from segrefinery.losses import (
    domain_loss,
    entropy_loss,
    self_information,
    variance_regularized_loss,
)
from segrefinery.refine.confidence import normalized_entropy


def test_variance_loss_by_hand():
    here = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1)
    other = torch.tensor([0.6, 0.4]).log().view(1, 2, 1, 1)
    divergence = 0.6 * math.log(0.6 / 0.8) + 0.4 * math.log(0.4 / 0.2)
    expected = math.exp(-divergence) * -math.log(0.8) + divergence
    label = torch.zeros(1, 1, 1, dtype=torch.long)
    assert variance_regularized_loss(here, other, label).item() == pytest.approx(expected, rel=1e-5)
    half = math.exp(-divergence) * -math.log(0.8) / 2 + divergence
    weight = torch.full((1, 1, 1), 0.5)
    assert variance_regularized_loss(here, other, label, weight).item() == pytest.approx(half, rel=1e-5)


def test_variance_loss_without_disagreement_is_cross_entropy():
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    assert torch.allclose(variance_regularized_loss(logits, logits, label), F.cross_entropy(logits, label))


def test_ignored_pixels_keep_their_divergence_and_teach_both_classifiers():
    here, other = (torch.randn(1, 3, 4, 4, requires_grad=True) for _ in range(2))
    loss = variance_regularized_loss(here, other, torch.full((1, 4, 4), 255))
    expected = F.kl_div(here.log_softmax(1), other.softmax(1), reduction="none").sum(1).mean()
    assert torch.allclose(loss, expected, atol=1e-6)
    loss.backward()
    assert here.grad is not None
    assert other.grad is not None
    assert here.grad.abs().sum() > 0
    assert other.grad.abs().sum() > 0


def test_entropy_losses():
    logits = torch.randn(2, 4, 3, 3)
    entropy = normalized_entropy(logits.softmax(1))
    assert torch.allclose(self_information(logits).sum(1), entropy, atol=1e-6)
    assert torch.allclose(entropy_loss(logits), entropy.mean(), atol=1e-6)
    assert torch.allclose(entropy_loss(logits, power=2.0), (entropy**2 + 1e-8).pow(2).mean(), atol=1e-6)
    uniform = torch.zeros(1, 4, 2, 2, requires_grad=True)
    entropy_loss(uniform, power=2.0).backward()
    assert uniform.grad is not None
    assert uniform.grad.isfinite().all()


def test_domain_losses():
    scores = torch.tensor([0.0, 2.0])
    bce = (math.log(2) + math.log1p(math.exp(2.0))) / 2
    assert domain_loss(scores, 0.0).item() == pytest.approx(bce)
    assert domain_loss(scores, 1.0, "least_squares").item() == pytest.approx(1.0)
    assert domain_loss(torch.tensor([1e4, -1e4]), 1.0).isfinite()
