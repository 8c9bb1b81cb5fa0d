"""Which pixels the refiner keeps: each image's mixture, the target set's, and what neither can decide."""

import pytest
import torch
from torch import Tensor

from refine.entropy_mixture.values import bimodal, normal
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.models.teacher import TeacherView
from segrefinery.refine.base import PseudoLabels
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture.refiner import EntropyMixture, EntropyMixtureSettings
from toys import toy_teacher, toy_view, unlabeled

VIEW = toy_view()


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
