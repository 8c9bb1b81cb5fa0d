"""Losses that ProDA, CPSL and distillation add: symmetric cross-entropy, MRKLD and KL."""

import math

import pytest
import torch
import torch.nn.functional as F

from segrefinery.losses import kl_divergence, mrkld, symmetric_cross_entropy


def test_reverse_term_by_hand():
    logits = torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1)
    loss = symmetric_cross_entropy(logits, torch.tensor([[[1]]]))
    assert loss.item() == pytest.approx(0.1 * -math.log(0.2) + math.log(1e4) * 0.8, rel=1e-5)


def test_reverse_term_is_that_of_clamped_one_hot_labels():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randint(0, 4, (2, 3, 5))
    probs, one_hot = logits.softmax(1).clamp(1e-7, 1), F.one_hot(label, 4).movedim(-1, 1).double().clamp(1e-4, 1)
    expected = -(probs * one_hot.log()).sum(1).mean()
    torch.testing.assert_close(symmetric_cross_entropy(logits, label, alpha=0.0).double(), expected)


def test_a_wrong_pixel_costs_a_bounded_amount():
    logits = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1)
    reverse = symmetric_cross_entropy(logits, torch.tensor([[[1]]]), alpha=0.0)
    assert reverse.item() == pytest.approx(math.log(1e4), rel=1e-5)


def test_ignored_pixels_and_weights_count_as_in_cross_entropy():
    torch.manual_seed(1)
    logits, label = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    weight = torch.tensor([[[1.0, 1.0], [0.0, 0.5]]])
    one = symmetric_cross_entropy(logits[..., :1, :1], label[..., :1, :1])
    half = symmetric_cross_entropy(logits[..., 1:, 1:], label[..., 1:, 1:])
    torch.testing.assert_close(symmetric_cross_entropy(logits, label, weight), (one + 0.5 * half) / 4)


def test_symmetric_loss_of_an_ignored_image_is_zero_with_a_finite_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = symmetric_cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mrkld_is_least_for_a_uniform_prediction():
    uniform = mrkld(torch.zeros(1, 4, 2, 2))
    assert uniform.item() == pytest.approx(4 * math.log(4))
    assert mrkld(torch.randn(1, 4, 2, 2)) > uniform


def test_mrkld_by_hand_and_masked():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log().T.reshape(1, 3, 1, 2)
    first = -(math.log(0.5) + 2 * math.log(0.25))
    assert mrkld(logits, torch.tensor([[[True, False]]])).item() == pytest.approx(first, rel=1e-5)
    assert mrkld(logits, torch.zeros(1, 1, 2, dtype=torch.bool)).item() == 0


def test_kl_by_hand():
    teacher = torch.tensor([0.5, 0.5]).log().view(1, 2, 1, 1)
    student = torch.tensor([0.9, 0.1]).log().view(1, 2, 1, 1)
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_divergence(teacher, student).item() == pytest.approx(expected, rel=1e-5)


def test_kl_is_never_negative_and_zero_only_for_equal_outputs():
    torch.manual_seed(2)
    teacher, student = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    assert kl_divergence(teacher, student) > 0.1
    assert kl_divergence(teacher, teacher + 3.0).item() == pytest.approx(0, abs=1e-6)


def test_masked_pixels_contribute_nothing():
    torch.manual_seed(3)
    teacher, student = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    mask = torch.tensor([[[True, False], [False, False]]])
    expected = kl_divergence(teacher[..., :1, :1], student[..., :1, :1])
    torch.testing.assert_close(kl_divergence(teacher, student, mask), expected)
