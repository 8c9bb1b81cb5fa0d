"""The fit of two Gaussians beside scikit-learn's, the posterior, and what a rule makes of it."""

import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.mixture import GaussianMixture

from refine.entropy_mixture.values import bimodal, normal
from segrefinery.refine.entropy_mixture.formulas import Mixture, Rule, certain_posterior, fit_binned, fit_two_gaussians


@pytest.mark.parametrize(
    ("number", "first", "second"),
    [
        ((900, 100), (0.1, 0.05), (0.6, 0.1)),  # fits exactly: fewer values than bins
        ((5000, 5000), (0.05, 0.03), (0.5, 0.2)),
        ((50000, 500), (0.02, 0.02), (0.5, 0.2)),
        ((3000, 1000), (-3.0, 1.0), (4.0, 2.0)),  # any range
    ],
)
def test_agrees_with_scikit_learn(number, first, second):
    values = torch.cat((normal(number[0], *first), normal(number[1], *second, seed=1)))
    own = fit_two_gaussians(values)
    other = GaussianMixture(2, tol=1e-6, max_iter=500, random_state=0).fit(values[:, None].numpy())
    order = other.means_[:, 0].argsort()
    assert own.means.numpy() == pytest.approx(other.means_[order, 0], abs=1e-2)
    assert own.weights.numpy() == pytest.approx(other.weights_[order], abs=1e-2)
    assert own.stds.numpy() == pytest.approx(other.covariances_[order, 0, 0] ** 0.5, rel=2e-2)
    expected = other.predict_proba(values[:50, None].numpy())[:, order[0]]
    assert certain_posterior(values[:50], own).numpy() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("values", [
    torch.cat((normal(2000, 0.15, 0.06), normal(1000, 0.35, 0.12, seed=1))),  # two modes that overlap
    torch.cat((normal(1900, 0.08, 0.05), normal(100, 0.5, 0.15, seed=1))),  # nearly all certain
])  # fmt: skip
def test_where_there_are_two_modes_the_start_does_not_matter(values):
    values = values.clamp(0, 1)
    low, high = values.quantile(0.1).item(), values.quantile(0.9).item()
    other = GaussianMixture(
        2, tol=1e-6, weights_init=[0.5, 0.5], means_init=[[low], [high]],
        precisions_init=[[[1 / values.var().item()]]] * 2,
    ).fit(values[:, None].numpy())  # fmt: skip
    certain = other.predict_proba(values[:, None].numpy())[:, other.means_[:, 0].argmin()] > 0.5
    points = (torch.arange(256) + 0.5) / 256
    fit = fit_binned(torch.histc(values.float(), 256, 0, 1)[None], points)
    ours = certain_posterior(values, Mixture(fit.weights[0], fit.means[0], fit.stds[0])).numpy() > 0.5
    assert (ours == certain).mean() > 0.98


def test_binned_agrees_with_exact():
    values = bimodal(1000).flatten()
    points = (torch.arange(256) + 0.5) / 256
    counts = torch.histc(values.float(), 256, 0, 1)
    exact, binned = fit_two_gaussians(values), fit_binned(counts[None], points)
    assert (exact.means - binned.means[0]).abs().max() < 3e-3
    assert (exact.weights - binned.weights[0]).abs().max() < 3e-3


def test_a_row_does_not_depend_on_its_company():
    counts = torch.stack([torch.histc(normal(999, m, 0.1, int(10 * m)).float(), 64, 0, 1) for m in (0.2, 0.4, 0.8)])
    points = (torch.arange(64) + 0.5) / 64
    together = fit_binned(counts, points)
    for row in range(3):
        alone = fit_binned(counts[row : row + 1], points)
        assert torch.allclose(alone.means[0], together.means[row], atol=1e-10)


def test_posterior_by_hand_and_flip_below_a_tight_mode():
    same = Mixture(torch.tensor([0.8, 0.2]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert certain_posterior(torch.tensor([0.5]), same).item() == pytest.approx(0.8)
    flip = Mixture(torch.tensor([0.6, 0.4]), torch.tensor([0.25, 0.46]), torch.tensor([0.03, 0.19]))
    grid = torch.linspace(0, 1, 1001)
    kept = grid[certain_posterior(grid, flip) > 0.5]
    assert kept.min() == pytest.approx(0.172, abs=3e-3)
    assert kept.max() == pytest.approx(0.318, abs=3e-3)
    where = (torch.zeros_like(grid, dtype=torch.long),)
    batch = Mixture(flip.weights[None], flip.means[None], flip.stds[None])
    guarded = grid[Rule.of(batch, guard=True).weight(grid, where, soft=False) > 0]
    assert guarded.min() == 0
    assert guarded.max() == kept.max()
    bare = grid[Rule.of(batch, guard=False).weight(grid, where, soft=False) > 0]
    assert bare.min() == kept.min()


@pytest.mark.parametrize(
    "values", [[], [float("nan")], [0.3], [0.3] * 50, [0.3] * 5000, [0.3, float("inf")], [0.0, 1.0]]
)
def test_degenerate_fits_neither_crash_nor_keep_everything(values):
    values = torch.tensor(values)
    mixture = fit_two_gaussians(values)
    assert mixture.means.shape == mixture.weights.shape == mixture.stds.shape == (2,)
    posterior = certain_posterior(torch.cat((values, torch.tensor([float("nan")]))), mixture)
    assert posterior.isfinite().all()
    assert (posterior > 0.5).sum() <= values.numel() / 2


def test_the_posterior_of_anything_that_names_the_three_parameters():
    mixture = SimpleNamespace(
        weights=torch.tensor([0.5, 0.5]), means=torch.tensor([0.2, 0.6]), stds=torch.tensor([0.1, 0.1])
    )
    found = certain_posterior(torch.tensor([0.4, 0.2, 0.6]), mixture)
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-8)), 1 / (1 + math.exp(8))])


def test_a_mixture_in_single_precision_far_from_zero():
    single = SimpleNamespace(
        weights=torch.tensor([0.5, 0.5]), means=torch.tensor([1000.0, 1001.0]), stds=torch.tensor([0.25, 0.25])
    )
    found = certain_posterior(torch.tensor([1000.5, 1000.25]), single)
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-4))])
