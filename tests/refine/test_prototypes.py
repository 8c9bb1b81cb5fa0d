"""Distances to class prototypes, and how prototypes are gathered and moved."""

import pytest
import torch
import torch.nn.functional as F

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.refine.prototypes.formulas import (
    class_sums,
    cosine_similarities,
    gather_statistics,
    move_prototypes,
    prototype_distances,
    prototype_weights,
)
from toys import labeled, toy_teacher, unlabeled

pytestmark = pytest.mark.filterwarnings("ignore:the teacher labels hardly any")
NAMES = ("road", "sky", "car", "train", "bike")


def direct(features, prototypes):
    return (features[:, None].double() - prototypes[None, :, :, None, None].double()).norm(dim=2)


def test_weights_by_hand():
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    prototypes = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    expected = torch.tensor([-5.0, -4.0]).softmax(0)
    torch.testing.assert_close(prototype_weights(features, prototypes).flatten(), expected)
    expected = torch.tensor([-2.5, -2.0]).softmax(0)
    torch.testing.assert_close(prototype_weights(features, prototypes, temperature=2.0).flatten(), expected)


def test_distances_equal_the_direct_difference(monkeypatch):
    monkeypatch.setattr("segrefinery.refine.prototypes.formulas.CHUNK", 7)
    torch.manual_seed(0)
    features, prototypes = torch.randn(2, 16, 5, 9), torch.randn(4, 16)
    found = prototype_distances(features, prototypes)
    torch.testing.assert_close(found.double(), direct(features, prototypes), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prototype_weights(features, prototypes).sum(1), torch.ones(2, 5, 9))


def test_distances_are_exact_beside_a_prototype_and_far_from_the_origin():
    torch.manual_seed(0)
    prototypes = torch.randn(4, 16) + 1000.0
    features = prototypes.T.reshape(1, 16, 2, 2).clone()
    features[:, 0] += 0.01
    found = prototype_distances(features, prototypes)
    torch.testing.assert_close(found.double(), direct(features, prototypes), atol=1e-4, rtol=1e-5)
    assert (prototype_weights(features, prototypes, 0.1).argmax(1).flatten() == torch.arange(4)).all()


def test_a_flat_temperature_gives_uniform_weights():
    weights = prototype_weights(torch.randn(1, 8, 2, 2), torch.randn(3, 8), temperature=1e6)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3), atol=1e-4, rtol=0)


def test_distances_have_the_right_gradient():
    torch.manual_seed(0)
    features = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    prototypes = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: prototype_distances(x, prototypes), features)
    on_top = prototypes.T.reshape(1, 4, 1, 3).clone().requires_grad_(True)
    prototype_distances(on_top, prototypes).sum().backward()
    assert on_top.grad is not None
    assert on_top.grad.isfinite().all()


def test_cosines():
    torch.manual_seed(0)
    features, prototypes = torch.randn(2, 8, 3, 4), torch.randn(5, 8)
    expected = F.conv2d(F.normalize(features, dim=1), F.normalize(prototypes, dim=1)[:, :, None, None])
    torch.testing.assert_close(cosine_similarities(features, prototypes), expected)
    assert not cosine_similarities(torch.zeros(1, 8, 1, 1), prototypes).any()


def test_half_precision_features_are_computed_wide():
    features = torch.randn(1, 8, 2, 2).bfloat16()
    assert prototype_weights(features, torch.randn(3, 8)).dtype == torch.float32


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="B x D x h x w"):
        prototype_weights(torch.randn(1, 8, 2, 2), torch.randn(3, 7))


def test_class_sums_skip_ignored_pixels():
    features = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]]]])
    sums, counts = class_sums(features, torch.tensor([[[0, 1, 255, 1]]]), 3)
    assert sums.flatten().tolist() == [1, 10, 0]
    assert counts.flatten().tolist() == [1, 2, 0]


def test_class_sums_refuse_features_that_are_not_finite():
    with pytest.raises(SegRefineryError, match="NaN"):
        class_sums(torch.tensor([[[[1.0, float("nan")]]]]), torch.tensor([[[0, 1]]]), 3)


def test_prototypes_move_by_the_momentum_and_small_classes_stay():
    prototypes = torch.tensor([[0.0], [0.0]])
    features = torch.tensor([[[[2.0, 2.0, 8.0]]], [[[6.0, 6.0, 6.0]]]])
    labels = torch.tensor([[[0, 0, 1]], [[0, 0, 0]]])
    by_batch = move_prototypes(prototypes, features, labels, 0.9, "batch", least=2)
    torch.testing.assert_close(by_batch, torch.tensor([[0.1 * 22 / 5], [0.0]]))
    by_image = move_prototypes(prototypes, features, labels, 0.9, "image", least=2)
    torch.testing.assert_close(by_image, torch.tensor([[0.9 * 0.2 + 0.1 * 6.0], [0.0]]))


def test_four_moves_make_a_momentum_of_its_fourth_power():
    features, labels = torch.ones(4, 1, 1, 4), torch.zeros(4, 1, 4, dtype=torch.int64)
    found = move_prototypes(torch.zeros(1, 1), features, labels, 0.9999, "image", least=1)
    assert found.item() == pytest.approx(1 - 0.9999**4, rel=1e-3)


@pytest.mark.parametrize("normalize", [False, True])
def test_gathered_prototypes_are_class_means_over_all_pixels(normalize):
    teacher = toy_teacher()
    batches = [unlabeled(2, seed=1), unlabeled(1, seed=2)]
    views = [teacher.view(batch.image) for batch in batches]
    features = torch.cat([view.features.permute(0, 2, 3, 1).flatten(0, 2) for view in views])
    features = F.normalize(features, dim=1) if normalize else features
    labels = torch.cat([view.logits.argmax(1).flatten() for view in views])
    found = gather_statistics(teacher, [labeled()], batches, NAMES, normalize=normalize)
    for known in labels.unique():
        torch.testing.assert_close(found.prototypes[known], features[labels == known].mean(0))
    torch.testing.assert_close(found.distribution, torch.bincount(labels, minlength=5) / len(labels))


def test_mean_of_image_means_differs_where_a_class_varies_in_size():
    teacher = toy_teacher()
    batches = [unlabeled(2, seed=1), unlabeled(2, seed=2)]
    pixels = gather_statistics(teacher, [labeled()], batches, NAMES, "pixels")
    images = gather_statistics(teacher, [labeled()], batches, NAMES, "images", least=1)
    labels = [teacher.view(batch.image).logits.argmax(1) for batch in batches]
    features = [teacher.view(batch.image).features for batch in batches]
    common = int(torch.cat([label.flatten() for label in labels]).mode().values)
    means = [
        feature[:, own == common].mean(1)
        for feature_batch, label in zip(features, labels)
        for feature, own in zip(feature_batch, label)
        if (own == common).any()
    ]
    torch.testing.assert_close(images.prototypes[common], torch.stack(means).mean(0))
    assert not torch.allclose(images.prototypes[common], pixels.prototypes[common])


def test_a_class_the_teacher_never_names_takes_its_prototype_from_the_source():
    teacher = toy_teacher()
    with torch.no_grad():
        teacher.network.classifier.bias[2] = -1e3
    source = labeled()
    with pytest.warns(UserWarning, match=r"car.*source"):
        found = gather_statistics(teacher, [source], [unlabeled()], NAMES)
    label = F.interpolate(source.label[:, None].float(), (8, 12))[:, 0]
    features = teacher.view(source.image).features.permute(0, 2, 3, 1)[label == 2]
    torch.testing.assert_close(found.prototypes[2], features.mean(0))
    assert found.distribution[2] == 0
    assert found.distribution.sum().item() == pytest.approx(1)


def test_a_class_that_is_nowhere_gets_a_finite_random_direction():
    teacher = toy_teacher()
    with torch.no_grad():
        teacher.network.classifier.bias[3] = -1e3
    source = labeled()
    source.label[source.label == 3] = 255
    with pytest.warns(UserWarning, match=r"train.*random"):
        found = gather_statistics(teacher, [source], [unlabeled()], NAMES)
    assert found.prototypes.isfinite().all()
    assert found.prototypes[3].norm() > 0


def test_no_image_and_diverged_networks_are_named():
    with pytest.raises(SegRefineryError, match="no image"):
        gather_statistics(toy_teacher(), [], [], NAMES)
    spoilt = unlabeled()
    spoilt = UnlabeledBatch(spoilt.image * float("nan"), spoilt.index)
    with pytest.raises(SegRefineryError, match="NaN"):
        gather_statistics(toy_teacher(), [], [spoilt], NAMES)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        prototype_weights(torch.zeros(1, 2, 1, 1), torch.zeros(3, 2), temperature)
