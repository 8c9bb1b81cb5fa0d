"""Distances to class prototypes, and how prototypes move."""

import pytest
import torch

from segrefinery.refine.prototypes.formulas import move_prototypes, prototype_distances, prototype_weights


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
    monkeypatch.setattr("segrefinery.refine.class_features.CHUNK", 7)
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


def test_half_precision_features_are_computed_wide():
    features = torch.randn(1, 8, 2, 2).bfloat16()
    assert prototype_weights(features, torch.randn(3, 8)).dtype == torch.float32


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="B x D x h x w"):
        prototype_weights(torch.randn(1, 8, 2, 2), torch.randn(3, 7))


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


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        prototype_weights(torch.zeros(1, 2, 1, 1), torch.zeros(3, 2), temperature)
