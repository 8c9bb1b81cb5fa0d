import math

import pytest
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.sampling import (
    RareClassSampler,
    UniformSampler,
    WeightedSampler,
    rare_class_probabilities,
    soft_balance_probabilities,
)

# Pixels of the 19 Cityscapes classes in GTA5, as published with ProDA.
GTA5 = torch.tensor(
    [
        *(16139327127, 4158369631, 8495419275, 927064742, 318109335, 532432540, 67453231, 40526481, 3818867486),
        *(1081467674, 6800402117, 182228033, 15360044, 1265024472, 567736474, 184854135, 32542442, 15832619, 2721193),
    ]
)


def smoothed(score):
    return min(0.1 + 1 / (1 + math.exp(-80 * (score - 0.02))), 1.0)


def test_soft_balance_by_hand():
    counts = torch.tensor([[90, 10, 0], [60, 0, 40], [100, 0, 0]])
    power = 0.1
    scores = torch.tensor([250.0, 10.0, 40.0], dtype=torch.float64) ** (power - 1)
    scores = (scores / scores.sum()).tolist()
    images = [
        (90**power * scores[0] + 10**power * scores[1]) / (90**power + 10**power),
        (60**power * scores[0] + 40**power * scores[2]) / (60**power + 40**power),
        scores[0],
    ]
    expected = torch.tensor([smoothed(score) for score in images], dtype=torch.float64)
    assert soft_balance_probabilities(counts).allclose(expected / expected.sum())


def test_soft_balance_of_uncertain_classes_by_hand():
    counts = torch.tensor([[5000, 10, 0, 0], [5000, 0, 40, 0], [5000, 0, 0, 0]])
    scores = torch.tensor([15000.0, 10.0, 40.0], dtype=torch.float64) ** -0.9
    scores = (scores / scores.sum()).tolist()
    expected = torch.tensor([smoothed(0), smoothed(scores[2]), smoothed(0)], dtype=torch.float64)
    for classes in ([2], torch.tensor([2, 3]), torch.tensor([False, False, True, False])):
        assert soft_balance_probabilities(counts, classes).allclose(expected / expected.sum())


@pytest.mark.parametrize(("score", "value"), [(0.0, 0.268), (0.02, 0.6), (0.05, 1.017), (0.1, 1.098)])
def test_equation_5_at_the_published_points(score, value):
    # Both classes score 0.5 by eq. 3, so the sigmoid is moved by 0.5 - score; the second image scores 0.
    counts = torch.tensor([[1, 0], [0, 1]])
    midpoint = 0.02 + 0.5 - score
    raw = soft_balance_probabilities(counts, classes=[0], midpoint=midpoint, clip=False)
    floor = 0.1 + 1 / (1 + math.exp(80 * midpoint))
    assert raw[0] / raw[1] == pytest.approx(value / floor, rel=1e-3)


def test_without_balance_every_class_scores_alike():
    counts = torch.tensor([[900, 0], [0, 1], [300, 5]])
    assert soft_balance_probabilities(counts, balance=0.0).allclose(torch.tensor(1 / 3, dtype=torch.float64))


def test_the_median_parts_the_images_that_hold_a_class_wherever_their_scores_lie():
    counts = torch.tensor([[100, 90], [90, 100], [50, 60], [60, 50], [70, 0]])
    paper, median = (soft_balance_probabilities(counts, [1], 0.5, midpoint=value) for value in (0.02, "median"))
    assert paper[:4].max() / paper[:4].min() < 1.0001  # far above the paper's midpoint, all are alike
    assert median[4] < median[:4].min()
    counts = torch.tensor([[100, 90], [100, 9], [100, 5], [100, 1]])
    paper, median = (soft_balance_probabilities(counts, None, 0.5, midpoint=value) for value in (0.02, "median"))
    assert paper.max() / paper.min() < 1.001
    assert median.max() / median.min() > 2
    assert soft_balance_probabilities(torch.zeros(3, 2), midpoint="median").tolist() == pytest.approx([1 / 3] * 3)


def test_clipping_only_touches_scores_above_one():
    counts = torch.tensor([[1000, 0], [1000, 1]])
    clipped, free = soft_balance_probabilities(counts), soft_balance_probabilities(counts, clip=False)
    assert free[1] / free[0] == pytest.approx(float(clipped[1] / clipped[0]) * 1.1, rel=1e-3)


def test_resampling_gains_grow_with_balance_and_leave_the_common_class_alone():
    rng = torch.Generator().manual_seed(0)
    share = torch.tensor([0.6, 0.3, 0.08, 0.002, 0.0005])
    holds = torch.rand(4000, 5, generator=rng) < torch.tensor([1.0, 1.0, 0.7, 0.1, 0.03])
    counts = (holds * share * 1e6 * torch.rand(4000, 5, generator=rng)).long()
    gains = []
    for balance in (0.0, 0.5, 0.9):
        sampled = (soft_balance_probabilities(counts, balance=balance)[:, None] * counts).sum(0)
        gains.append((sampled / sampled.sum()) / (counts.sum(0) / counts.sum()))
    assert gains[0].allclose(torch.ones(5, dtype=torch.float64), atol=0.01)
    assert gains[2][0] == pytest.approx(1.0, abs=0.02)
    assert gains[2][4] > gains[1][4] > 1.2


def test_absent_classes_get_no_share_and_no_nan():
    with_absent = torch.tensor([[90, 10, 0], [60, 40, 0]])
    assert soft_balance_probabilities(with_absent).allclose(soft_balance_probabilities(with_absent[:, :2]))
    assert soft_balance_probabilities(torch.zeros(4, 3)).tolist() == [0.25] * 4


def test_uncertain_classes_that_never_occur_leave_all_images_alike():
    assert soft_balance_probabilities(torch.tensor([[5, 1, 0], [9, 0, 0]]), [2]).tolist() == [0.5, 0.5]
    assert soft_balance_probabilities(torch.tensor([[5, 1], [9, 0]]), []).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel_counts": torch.ones(3)}, "N x C"),
        ({"pixel_counts": -torch.ones(3, 2)}, "negative"),
        ({"pixel_counts": torch.ones(3, 2), "classes": [0, 1, 2]}, "0..1"),
        ({"pixel_counts": torch.ones(3, 2), "balance": 1.5}, "balance"),
    ],
)
def test_soft_balance_names_the_argument_that_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        soft_balance_probabilities(**arguments)


def test_rare_class_probabilities_of_gta5():
    found = rare_class_probabilities(GTA5)
    rarest = found.argsort(descending=True)
    assert rarest[:4].tolist() == [18, 12, 17, 16]
    published = {18: 0.120, 12: 0.116, 17: 0.116, 16: 0.112, 7: 0.110, 6: 0.104, 11: 0.080, 15: 0.080, 4: 0.059}
    published |= {5: 0.037, 14: 0.034, 3: 0.015, 9: 0.011, 13: 0.007, 0: 0.0}
    for name, value in published.items():
        assert float(found[name]) == pytest.approx(value, abs=6e-4)
    assert float(found.sum()) == pytest.approx(1)


def test_rare_class_probabilities_flatten_with_temperature():
    assert rare_class_probabilities(GTA5, 1e9).allclose(torch.tensor(1 / 19, dtype=torch.float64))
    assert rare_class_probabilities(torch.zeros(4)).tolist() == [0.25] * 4
    with pytest.raises(ValueError, match="temperature"):
        rare_class_probabilities(GTA5, 0.0)


def test_uniform_sampler_shows_every_image_once_an_epoch_in_new_order():
    sampler = UniformSampler(7, seed=3)
    epochs = [[sampler.draw(epoch * 7 + place).index for place in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    with pytest.raises(SegRefineryError, match="no images"):
        UniformSampler(0, seed=3)


def samplers(seed):
    counts = torch.tensor([[90, 10, 0], [60, 0, 40], [10, 50, 40]])
    return UniformSampler(3, seed), WeightedSampler(torch.tensor([0.2, 0.3, 0.5]), seed), RareClassSampler(counts, seed)


def test_a_draw_is_a_function_of_seed_and_position():
    for one, again, other in zip(samplers(1), samplers(1), samplers(2), strict=True):
        backwards = [again.draw(position) for position in reversed(range(50))][::-1]
        forwards = [one.draw(position) for position in range(50)]
        assert forwards == backwards
        assert forwards != [other.draw(position) for position in range(50)]
        assert len({draw.seed for draw in forwards}) == 50


def test_weighted_sampler_follows_its_probabilities():
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0])
    drawn = torch.tensor([WeightedSampler(weights, 0).draw(position).index for position in range(4000)])
    shares = torch.bincount(drawn, minlength=5) / 4000
    assert shares.allclose(torch.tensor([0.0, 0.75, 0.0, 0.25, 0.0]), atol=0.03)
    assert shares[[0, 2, 4]].sum() == 0


def test_weighted_draw_is_a_uniform_draw_with_acceptance():
    accept = soft_balance_probabilities(torch.tensor([[90, 10, 0], [60, 0, 40], [100, 0, 0]]))
    rng = torch.Generator().manual_seed(0)
    proposed = torch.randint(0, 3, (20000,), generator=rng)
    kept = proposed[torch.rand(20000, generator=rng) < (accept / accept.max())[proposed]]
    accepted = torch.bincount(kept, minlength=3) / len(kept)
    assert accepted.double().allclose(accept, atol=0.015)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([1.0, -1.0]), torch.tensor([float("nan")])])
def test_weighted_sampler_refuses_what_is_no_distribution(bad):
    with pytest.raises(ValueError, match="probabilities"):
        WeightedSampler(bad, 0)


def test_rare_class_sampler_wants_present_classes_and_draws_images_that_have_them():
    counts = torch.tensor([[9000, 5000, 0, 0], [9000, 0, 0, 20], [9000, 4000, 0, 0], [9000, 100, 0, 0]])
    sampler = RareClassSampler(counts, seed=0, temperature=1.0)
    draws = [sampler.draw(position) for position in range(600)]
    assert {draw.wanted_class for draw in draws} == {0, 1, 3}
    assert {draw.index for draw in draws if draw.wanted_class == 1} == {0, 2}
    assert {draw.index for draw in draws if draw.wanted_class == 3} == {1}
    assert {draw.index for draw in draws if draw.wanted_class == 0} == {0, 1, 2, 3}
    wanted = torch.bincount(torch.tensor([draw.wanted_class for draw in draws]), minlength=4) / 600
    expected = rare_class_probabilities(counts.sum(0)[[0, 1, 3]], 1.0)
    assert wanted[[0, 1, 3]].double().allclose(expected, atol=0.06)


def test_rare_class_sampler_without_any_label_says_so():
    with pytest.raises(SegRefineryError, match="no labelled pixel"):
        RareClassSampler(torch.zeros(3, 5), seed=0)


def test_rare_class_probabilities_need_only_the_shares_of_the_counts():
    expected = rare_class_probabilities(torch.tensor([1.0, 3.0]), 1.0)
    torch.testing.assert_close(rare_class_probabilities(torch.tensor([0.1, 0.3]), 1.0), expected)
    with pytest.raises(ValueError, match="NaN"):
        rare_class_probabilities(torch.tensor([1.0, float("nan")]))


def test_uncertain_classes_may_be_a_set():
    counts = torch.tensor([[4, 0, 1], [0, 2, 2]])
    chosen = soft_balance_probabilities(counts, {1, 2})
    torch.testing.assert_close(chosen, soft_balance_probabilities(counts, [1, 2]))
