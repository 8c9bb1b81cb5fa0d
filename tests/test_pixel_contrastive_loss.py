"""The contrastive loss on hand-made pools."""

from __future__ import annotations

import pytest
import torch

from segrefinery.losses import pixel_contrastive_loss


def test_by_hand():
    # Two of class 0 at right angles, one of class 1 opposite to the first; temperature 1.
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    loss = pixel_contrastive_loss(vectors, torch.tensor([0, 0, 1]), temperature=1.0)
    first = torch.log(1 + torch.exp(torch.tensor(-1.0 - 0.0)))  # positive at 0, negative at -1
    second = torch.log(torch.tensor(2.0))  # positive and negative at 0
    torch.testing.assert_close(loss, (first + second) / 2)


def test_equals_the_formula_as_written():
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 4, 4, 3])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    scores = (unit @ unit.T / 0.1).exp()
    anchors = []
    for i in range(12):
        negatives = scores[i][labels != labels[i]].sum()
        positives = [j for j in range(12) if j != i and labels[j] == labels[i]]
        if positives:
            anchors.append(sum(-(scores[i, j] / (scores[i, j] + negatives)).log() for j in positives) / len(positives))
    assert len(anchors) == 11
    torch.testing.assert_close(pixel_contrastive_loss(vectors, labels), sum(anchors) / 11)


@pytest.mark.parametrize("labels", [[], [3], [1, 1, 1], [0, 1, 2]])
def test_no_pair_to_learn_from(labels):
    vectors = torch.randn(len(labels), 4, requires_grad=True)
    loss = pixel_contrastive_loss(vectors, torch.tensor(labels, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert vectors.grad is not None
    assert vectors.grad.eq(0).all()


def test_a_sharp_temperature_stays_finite():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = pixel_contrastive_loss(vectors, torch.tensor([0, 0, 1]), temperature=1e-3)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor((2000.0 + 0.6931) / 2), atol=0.01, rtol=0)
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[3, 2\] and \[2\]"):
        pixel_contrastive_loss(torch.zeros(3, 2), torch.zeros(2))
