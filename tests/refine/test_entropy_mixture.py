import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from segrefinery.data.batch import UnlabeledBatch
from segrefinery.models.teacher import TeacherView
from segrefinery.refine.base import PseudoLabels
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture.refiner import (
    EntropyMixture,
    EntropyMixtureSettings,
    Mixture,
    Rule,
    certain_posterior,
    fit_binned,
    fit_two_gaussians,
)
from toys import toy_teacher, toy_view, unlabeled

VIEW = toy_view()


def normal(number: int, mean: float, std: float, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(number, generator=rng, dtype=torch.float64) * std + mean


def two_class_probs(entropy: Tensor, label: Tensor) -> Tensor:
    """B x h x w entropies and labels (0 or 1) -> B x 2 x h x w probabilities that have them, by bisection."""
    low, high = torch.full_like(entropy, 0.5), torch.ones_like(entropy)
    for _ in range(60):
        middle = (low + high) / 2
        too_sure = normalized_entropy(torch.stack((middle, 1 - middle), 1)) < entropy
        low, high = torch.where(too_sure, low, middle), torch.where(too_sure, middle, high)
    return torch.stack((torch.where(label == 0, low, 1 - low), torch.where(label == 0, 1 - low, low)), 1)


def labels_of(entropy: Tensor, label: Tensor | None = None) -> PseudoLabels:
    label = torch.zeros_like(entropy, dtype=torch.long) if label is None else label
    return PseudoLabels(two_class_probs(entropy.double(), label), torch.ones_like(entropy))


class Oracle:
    """Stands in for a teacher: its images are the probabilities."""

    def view(self, image: Tensor) -> TeacherView:
        return TeacherView(image.log(), image, image=image)


def fitted(refiner: EntropyMixture, *labels: PseudoLabels) -> EntropyMixture:
    batches = [UnlabeledBatch(item.probs, torch.arange(len(item.probs))) for item in labels]
    refiner.fit(Oracle(), [], batches)  # pyright: ignore[reportArgumentType]
    return refiner


def bimodal(number: int = 2000) -> Tensor:
    """1 x 1 x number: three quarters around 0.1, one quarter around 0.6."""
    values = torch.cat((normal(number * 3 // 4, 0.1, 0.03), normal(number // 4, 0.6, 0.1, 1)))
    return values.clamp(0, 1)[None, None]


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


def test_image_scope_keeps_the_certain_mode_of_each_image():
    entropy = torch.cat((bimodal(), bimodal() * 0.5))
    weight = EntropyMixture(EntropyMixtureSettings(), 2)(VIEW, labels_of(entropy)).weight
    for image, top in ((0, 0.3), (1, 0.15)):
        assert (weight[image] == (entropy[image] < top)).float().mean() > 0.98
    soft = EntropyMixture(EntropyMixtureSettings(soft=True), 2)(VIEW, labels_of(entropy)).weight
    assert ((soft > 0.5) == (weight > 0)).all()
    assert ((soft > 0.01) & (soft < 0.99)).any()


def test_dataset_scope_uses_one_mixture_for_all():
    settings = EntropyMixtureSettings(gmm_scope="dataset")
    refiner = fitted(EntropyMixture(settings, 2), labels_of(bimodal()))
    few = labels_of(torch.tensor([[[0.05, 0.1, 0.5, 0.9]]]))
    assert refiner(VIEW, few).weight.flatten().tolist() == [1, 1, 0, 0]
    other = EntropyMixture(settings, 2)
    assert other(VIEW, few).weight.sum() == 0  # nothing is known, nothing is kept
    other.load_state_dict(refiner.state_dict())
    assert other(VIEW, few).weight.flatten().tolist() == [1, 1, 0, 0]
    mixture = refiner.mixtures()
    assert mixture.means[0].tolist() == pytest.approx([0.1, 0.6], abs=0.01)
    assert mixture.means[1].isnan().all()


def test_fit_streams_and_forgets_the_last_generation():
    teacher, settings = toy_teacher(), EntropyMixtureSettings()
    batches = [unlabeled(1, seed=seed) for seed in range(3)]
    refiner, again = EntropyMixture(settings, 5), EntropyMixture(settings, 5)
    for item in (refiner, again, again):
        item.fit(teacher, [], iter(batches))
    assert torch.equal(refiner.counts, again.counts)
    assert refiner.counts.sum() == refiner.moments[:, 0].sum() == 3 * 8 * 12


def test_few_pixels_fall_back_to_the_target_set():
    refiner = EntropyMixture(EntropyMixtureSettings(), 2)
    few = labels_of(torch.tensor([[[0.05, 0.5]]]))
    assert refiner(VIEW, few).weight.sum() == 0
    assert fitted(refiner, labels_of(bimodal()))(VIEW, few).weight.flatten().tolist() == [1, 0]


def test_constant_entropies_are_compared_with_the_target_set():
    refiner = EntropyMixture(EntropyMixtureSettings(), 2)
    certain, doubtful = (labels_of(torch.full((1, 1, 200), value)) for value in (0.05, 0.15))
    assert refiner(VIEW, certain).weight.sum() == 0
    fitted(refiner, labels_of(bimodal()))  # mean about 0.225
    assert refiner(VIEW, certain).weight.all()
    assert refiner(VIEW, doubtful).weight.sum() == 0


def test_close_components_take_the_target_sets_threshold():
    refiner = fitted(EntropyMixture(EntropyMixtureSettings(), 2), labels_of(bimodal()))
    unimodal = labels_of(normal(400, 0.1, 0.004).clamp(0, 1)[None, None])
    assert refiner(VIEW, unimodal).weight.all()  # all lie below the threshold, about 0.2
    doubtful = labels_of(normal(400, 0.5, 0.004).clamp(0, 1)[None, None])
    assert refiner(VIEW, doubtful).weight.sum() == 0


def test_a_target_set_without_two_modes_keeps_the_median_or_nothing():
    settings = EntropyMixtureSettings(gmm_scope="dataset")
    narrow = labels_of(normal(4000, 0.3, 0.004)[None, None])
    assert 0.4 < fitted(EntropyMixture(settings, 2), narrow)(VIEW, narrow).weight.mean() < 0.9
    constant = labels_of(torch.full((1, 1, 500), 0.3))
    assert fitted(EntropyMixture(settings, 2), constant)(VIEW, constant).weight.sum() == 0


def test_nan_pixels_are_rejected_and_earlier_weights_respected():
    labels = labels_of(bimodal())
    labels.probs[:, :, 0, :10] = float("nan")
    labels.weight[0, 0, 10:20] = 0.5
    weight = EntropyMixture(EntropyMixtureSettings(), 2)(VIEW, labels).weight[0, 0]
    assert (weight[:10] == 0).all()
    assert (weight[10:20] == 0.5).all()
    assert weight[20:1000].mean() > 0.95


def test_all_probabilities_equal():
    labels = PseudoLabels(torch.full((2, 5, 16, 16), 0.2), torch.ones(2, 16, 16))
    for scope in ("image", "dataset"):
        refiner = EntropyMixture(EntropyMixtureSettings(gmm_scope=scope), 5)
        assert fitted(refiner, labels)(VIEW, labels).weight.sum() == 0


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
