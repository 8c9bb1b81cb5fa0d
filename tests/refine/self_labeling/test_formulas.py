"""The formulas of CPSL against hand-computed values and the properties the paper states."""

import math

import pytest
import torch
import torch.nn.functional as F

from segrefinery.losses import kl_divergence
from segrefinery.refine.self_labeling.formulas import (
    balanced_positions,
    cosine_similarities,
    rectify,
    sinkhorn,
    symmetric_kl,
    uniform_positions,
    update_class_distribution,
)

# GTA5 -> Cityscapes: the long tail that the method is made for (road 309 times motorcycle).
LONG_TAIL = torch.tensor(
    [.37922, .04930, .22665, .01551, .01721, .01403, .00219, .00221, .13338, .02424,
     .04341, .01315, .00161, .06605, .00408, .00279, .00185, .00123, .00191]
)  # fmt: skip


def by_the_book(scores, marginal, epsilon, iterations):
    """Whole-matrix normalisations, in the order of the published procedure."""
    plan = (scores.double() / epsilon).exp().T
    plan = plan / plan.sum()
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True) * marginal.double()[:, None]
        plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
    return (plan * plan.shape[1]).T


def cosine_scores(rows=2000, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(rows, 19, generator=rng) * 0.8 - 0.2


def test_one_iteration_by_hand():
    scores = torch.log(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    classes = torch.tensor([0.25 / 3, 0.75 / 5])
    plan = torch.tensor([[1.0, 3.0], [2.0, 2.0]]) * classes
    expected = plan / plan.sum(1, keepdim=True)
    torch.testing.assert_close(sinkhorn(scores, torch.tensor([0.25, 0.75]), epsilon=1.0, iterations=1), expected)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_published_procedure(iterations):
    expected = by_the_book(cosine_scores(), LONG_TAIL, 0.05, iterations)
    found = sinkhorn(cosine_scores(), LONG_TAIL, iterations=iterations)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_logarithms_and_products_agree_where_both_can_be_computed(monkeypatch):
    scores = cosine_scores(500)
    products = sinkhorn(scores, LONG_TAIL)
    monkeypatch.setattr("segrefinery.refine.self_labeling.formulas.SAFE_RANGE", 0.0)
    torch.testing.assert_close(sinkhorn(scores, LONG_TAIL), products, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reach", [1.0, 5.0, 50.0, 1e4])
def test_scores_of_any_size_stay_finite_and_rows_sum_to_one(reach):
    scores = (torch.rand(300, 19, generator=torch.Generator().manual_seed(1)) * 2 - 1) * reach
    found = sinkhorn(scores, LONG_TAIL)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(300))


def test_a_class_far_below_all_others_still_gets_its_share():
    scores = torch.zeros(100, 3)
    scores[:, 2] = -50.0
    found = sinkhorn(scores, torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(found.mean(0), torch.tensor([0.5, 0.3, 0.2]))


def test_the_class_marginal_is_met_in_the_limit():
    distance = [
        (sinkhorn(cosine_scores(), LONG_TAIL, iterations=n).mean(0) - LONG_TAIL / LONG_TAIL.sum()).abs().sum().item()
        for n in (3, 10, 50)
    ]
    assert distance[0] > distance[1] > distance[2]
    assert distance[2] < 2e-3


def test_a_uniform_marginal_gives_an_equipartition():
    found = sinkhorn(cosine_scores(), torch.ones(19), iterations=200)
    torch.testing.assert_close(found.mean(0), torch.full((19,), 1 / 19), atol=1e-3, rtol=0)


@pytest.mark.parametrize("reach", [0.5, 50.0])
def test_a_class_of_share_zero_gets_nothing(reach):
    marginal = torch.tensor([0.5, 0.0, 0.5])
    found = sinkhorn(torch.randn(20, 3).clamp(-1, 1) * reach, marginal)
    assert found.isfinite().all()
    assert (found[:, 1] == 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(20))


def test_two_classes_and_one_pixel():
    torch.testing.assert_close(sinkhorn(torch.zeros(1, 2), torch.tensor([0.9, 0.1])), torch.tensor([[0.9, 0.1]]))
    assert sinkhorn(torch.zeros(0, 2), torch.tensor([0.9, 0.1])).shape == (0, 2)


def test_half_precision_scores_are_widened():
    assert sinkhorn(cosine_scores().bfloat16(), LONG_TAIL).dtype == torch.float32


@pytest.mark.parametrize(
    ("marginal", "iterations", "words"),
    [
        (torch.ones(3), 3, "M x C"),
        (torch.ones(2), 0, "iterations"),
        (torch.tensor([-1.0, 2.0]), 3, "class_marginal"),
        (torch.zeros(2), 3, "class_marginal"),
        (torch.tensor([math.nan, 1.0]), 3, "class_marginal"),
    ],
)
def test_bad_arguments_are_named(marginal, iterations, words):
    with pytest.raises(ValueError, match=words):
        sinkhorn(torch.zeros(4, 2), marginal, iterations=iterations)


def test_rectify_by_hand():
    clusters = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1)
    labels = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
    expected = torch.tensor([0.12, 0.32]) / 0.44
    torch.testing.assert_close(rectify(clusters, labels).flatten(), expected)


def test_sharp_clusters_win_and_flat_ones_yield():
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4).softmax(1)
    assert (rectify((scores / 1e-5).softmax(1), labels).argmax(1) == scores.argmax(1)).all()
    torch.testing.assert_close(rectify((scores / 1e6).softmax(1), labels), labels, atol=1e-4, rtol=1e-4)


def test_opinions_that_share_no_class_leave_the_soft_labels():
    clusters, labels = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(rectify(clusters, labels), labels)


def test_class_distribution_is_a_mean_over_images():
    labels = torch.tensor([[[0, 0], [0, 1]], [[1, 255], [255, 255]]])
    found = update_class_distribution(torch.tensor([0.5, 0.5]), labels, 0.9)
    torch.testing.assert_close(found, 0.9 * torch.tensor([0.5, 0.5]) + 0.1 * torch.tensor([0.375, 0.625]))


def test_class_distribution_leaves_out_ignored_images_and_keeps_its_sum():
    old = torch.tensor([0.2, 0.3, 0.5])
    ignored = torch.full((1, 2, 2), 255)
    torch.testing.assert_close(update_class_distribution(old, ignored, 0.9), old)
    mixed = torch.cat([ignored, torch.full((1, 2, 2), 2)])
    found = update_class_distribution(old, mixed, 0.5)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.15, 0.75]))


def test_class_distribution_with_momentum_one_stays():
    old = torch.tensor([0.2, 0.8])
    torch.testing.assert_close(update_class_distribution(old, torch.zeros(1, 2, 2, dtype=torch.int64), 1.0), old)


def test_class_distribution_refuses_unknown_classes():
    with pytest.raises(ValueError, match="labels"):
        update_class_distribution(torch.ones(2) / 2, torch.full((1, 2, 2), 2), 0.9)


def test_balanced_positions_hold_at_least_each_share():
    labels = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)[torch.randperm(100)]
    positions = balanced_positions(labels, 50, torch.Generator().manual_seed(0))
    assert len(positions) == len(positions.unique()) == 50
    counts = torch.bincount(labels[positions], minlength=3)
    assert (counts >= torch.tensor([35, 12, 2])).all()


def test_balanced_positions_top_up_at_random_and_skip_ignored():
    labels = torch.tensor([0, 255, 1, 2, 255, 3, 1])
    drawn = {
        tuple(sorted(balanced_positions(labels, 3, torch.Generator().manual_seed(seed)).tolist())) for seed in range(20)
    }
    assert len(drawn) > 3
    assert all(len(places) == 3 and not {1, 4} & set(places) for places in drawn)


def test_balanced_positions_of_few_pixels_are_all_of_them():
    labels = torch.tensor([0, 1, 1, 255])
    assert sorted(balanced_positions(labels, 10, torch.Generator()).tolist()) == [0, 1, 2]
    assert balanced_positions(torch.full((4,), 255), 10, torch.Generator()).tolist() == []


def test_balanced_sampling_has_the_mean_of_uniform_sampling_and_less_variance():
    labels = torch.tensor([0] * 150 + [1] * 40 + [2] * 10)
    rng = torch.Generator().manual_seed(0)
    shares = {}
    for draw in (balanced_positions, uniform_positions):
        counts = [torch.bincount(labels[draw(labels, 40, rng)], minlength=3).float() / 40 for _ in range(200)]
        shares[draw] = torch.stack(counts)
    balanced, uniform = shares[balanced_positions], shares[uniform_positions]
    torch.testing.assert_close(balanced.mean(0), uniform.mean(0), atol=0.02, rtol=0)
    assert balanced.var(0).sum() < 0.2 * uniform.var(0).sum()


def test_rectify_has_finite_gradients_where_no_class_is_shared():
    clusters = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    labels = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
    rectify(clusters, labels)[0, 1].sum().backward()
    assert clusters.grad.flatten().tolist() == [0.0, 0.0]
    assert labels.grad.flatten().tolist() == [0.0, 1.0]
    assert rectify(clusters.double(), labels.double()).dtype == torch.float64


def test_class_distribution_of_many_pixels_in_half_precision():
    found = update_class_distribution(torch.tensor([0.5, 0.5]).half(), torch.zeros(1, 300, 300).long(), 0.5)
    assert found.tolist() == [0.75, 0.25]


@pytest.mark.parametrize("momentum", [-0.1, 2.0])
def test_class_distribution_refuses_a_momentum_that_is_no_share(momentum):
    with pytest.raises(ValueError, match="momentum"):
        update_class_distribution(torch.tensor([0.5, 0.5]), torch.zeros(1, 2, 2).long(), momentum)


@pytest.mark.parametrize("epsilon", [0.0, -1.0])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        sinkhorn(torch.zeros(2, 2), torch.ones(2), epsilon)


def test_cosines():
    torch.manual_seed(0)
    features, prototypes = torch.randn(2, 8, 3, 4), torch.randn(5, 8)
    expected = F.conv2d(F.normalize(features, dim=1), F.normalize(prototypes, dim=1)[:, :, None, None])
    torch.testing.assert_close(cosine_similarities(features, prototypes), expected)
    assert not cosine_similarities(torch.zeros(1, 8, 1, 1), prototypes).any()


def test_symmetric_kl():
    torch.manual_seed(0)
    one, other = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(symmetric_kl(one, other), symmetric_kl(other, one))
    torch.testing.assert_close(symmetric_kl(one, other), kl_divergence(one, other) + kl_divergence(other, one))
    assert symmetric_kl(one, one).item() == pytest.approx(0, abs=1e-6)
