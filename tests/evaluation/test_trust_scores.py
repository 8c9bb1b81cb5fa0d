"""Label-free scores against values computed by hand."""

import math

import pytest
import torch

from segrefinery.evaluation.trust import scores

ONE_HOT = torch.eye(4).repeat(5, 1)
UNIFORM = torch.full((20, 4), 0.25)
COLLAPSED = torch.eye(4)[torch.zeros(20, dtype=torch.long)]


def random_probs(rows=50, classes=4, seed=0):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


@pytest.mark.parametrize(("probs", "value"), [(ONE_HOT, 0.0), (UNIFORM, 1.0), (COLLAPSED, 0.0)])
def test_entropy(probs, value):
    assert float(scores.entropy(probs)) == pytest.approx(value, abs=1e-9)


def test_entropy_of_two_rows_by_hand():
    probs = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    by_hand = (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2 / math.log(2)
    assert float(scores.entropy(probs)) == pytest.approx(by_hand)


@pytest.mark.parametrize(("probs", "value"), [(ONE_HOT, 1.0), (UNIFORM, 0.0), (COLLAPSED, 0.0)])
def test_information_tells_collapse_from_confidence(probs, value):
    assert float(scores.information(probs)) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("probs", "value"), [(ONE_HOT, 1.0), (UNIFORM, 0.25), (COLLAPSED, 0.5)])
def test_nuclear_norm(probs, value):
    assert float(scores.nuclear_norm(probs)) == pytest.approx(value, abs=1e-6)


def test_nuclear_norm_from_gram_matrices_that_add_up():
    probs = random_probs().double()
    own = torch.linalg.svdvals(probs).sum() / math.sqrt(50 * 4)
    parts = sum(part.T @ part for part in probs.split(10))
    assert float(scores.nuclear_norm(probs)) == pytest.approx(float(own))
    assert float(scores.gram_nuclear_norm(parts, 50)) == pytest.approx(float(own))


def test_soft_neighborhood_density_by_hand():
    # Two equal pixels and one orthogonal to them: similarities 1 and 0.
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    near = 1 / (1 + math.exp(-1 / 0.05))
    pair = -near * math.log(near) - (1 - near) * math.log(1 - near)
    assert float(scores.soft_neighborhood_density(probs)) == pytest.approx((2 * pair + math.log(2)) / 3, abs=1e-6)
    assert float(scores.soft_neighborhood_density(UNIFORM)) == pytest.approx(math.log(19))


def test_agreement_and_its_balanced_kind_by_hand():
    counts = torch.tensor([[8, 2, 0], [0, 0, 0], [0, 0, 10]])
    everything = torch.ones(3, dtype=torch.bool)
    assert float(scores.agreement(counts)) == pytest.approx(18 / 20)
    assert float(scores.balanced_agreement(counts, everything, floor=0)) == pytest.approx((0.8 + 0 + 1) / 3)
    assert float(scores.balanced_agreement(counts, torch.tensor([True, False, True]), floor=0)) == pytest.approx(0.9)


def test_a_constant_model_agrees_with_itself_but_not_balanced():
    counts = torch.zeros(5, 5)
    counts[2, 2] = 1000
    assert float(scores.agreement(counts)) == 1
    assert float(scores.balanced_agreement(counts, torch.ones(5, dtype=torch.bool))) < 0.21


def test_a_handful_of_pixels_does_not_make_a_class():
    counts = torch.diag(torch.tensor([99999, 1]))
    assert float(scores.balanced_agreement(counts, torch.ones(2, dtype=torch.bool))) < 0.55


def test_balanced_recall_by_hand():
    kept, total = torch.tensor([50.0, 1.0, 0.0]), torch.tensor([100.0, 1.0, 0.0])
    assert float(scores.balanced_recall(kept, total)) == pytest.approx((0.5 * 10 + 1 * 1) / 11)
    assert float(scores.balanced_recall(torch.zeros(3), torch.zeros(3))) == 1


def test_joint_counts():
    counts = scores.joint_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
    assert counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="same shape"):
        scores.joint_counts(torch.zeros(2), torch.zeros(3), 3)


def test_total_variation():
    assert float(scores.total_variation(torch.tensor([1.0, 0]), torch.tensor([0, 1.0]))) == 1
    assert float(scores.total_variation(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))) == pytest.approx(0.25)


@pytest.mark.parametrize("score", [scores.entropy, scores.information, scores.nuclear_norm])
@pytest.mark.parametrize("probs", [torch.zeros(0, 3), torch.ones(4, 1), torch.rand(2, 3, 4)])
def test_bad_shapes_are_named(score, probs):
    with pytest.raises(ValueError, match="probs must be N x C"):
        score(probs)


@pytest.mark.parametrize("score", [scores.entropy, scores.information, scores.nuclear_norm])
def test_class_order_does_not_matter(score):
    probs = random_probs()
    assert float(score(probs)) == pytest.approx(float(score(probs[:, [2, 0, 3, 1]])))
