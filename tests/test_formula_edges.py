"""Formulas at the edges of what they are given: nothing at all, one class, half precision."""

import pytest
import torch

from segrefinery.data.mixing import classmix, draw_mix_classes
from segrefinery.data.sampling import rare_class_probabilities, soft_balance_probabilities
from segrefinery.losses import self_information
from segrefinery.refine.pixel_attention import pixel_attention
from segrefinery.refine.prototypes import prototype_weights
from segrefinery.refine.self_labeling import sinkhorn, update_class_distribution
from segrefinery.spectrum import swap_low_frequency_amplitude

EMPTY = [(0, 3, 2, 4), (2, 3, 0, 4), (2, 3, 2, 0)]


@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize(
    "formula",
    [
        lambda maps: pixel_attention(maps, maps),
        lambda maps: prototype_weights(maps, torch.eye(3)),
        lambda maps: swap_low_frequency_amplitude(maps, maps, 0.1),
    ],
)
def test_without_any_pixel_there_is_nothing(formula, shape):
    assert formula(torch.zeros(shape)).shape == shape


def test_no_pixel_is_assigned_without_a_gradient():
    assigned = sinkhorn(torch.zeros(0, 3, dtype=torch.float16, requires_grad=True), torch.ones(3))
    assert assigned.shape == (0, 3)
    assert assigned.dtype == torch.float32
    assert not assigned.requires_grad


@pytest.mark.parametrize("label", [0, 255])
def test_a_class_distribution_in_half_precision_moves_in_float32(label):
    start = torch.tensor([0.1, 0.9], dtype=torch.bfloat16)  # which has no number between it and a move of 0.001
    moved = update_class_distribution(start, torch.full((1, 2, 2), label), 0.999)
    exact = start.float() if label else 0.999 * start.float() + 0.001 * torch.tensor([1.0, 0.0])
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, exact)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_labels_and_classes_may_be_of_any_integer_type(kind):
    label = torch.tensor([[[0, 1], [2, 255]]], dtype=kind)
    image, below = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    mixed, mixed_label, mask = classmix(
        image, label, below, torch.full_like(label, 4), [torch.tensor([1, 2], dtype=kind)]
    )
    assert mask.tolist() == [[[False, True], [True, False]]]
    assert mixed_label.tolist() == [[[4, 1], [2, 4]]]
    assert torch.equal(mixed[:, 0], mask.float())
    assert not classmix(image, label, below, label, [torch.tensor([])])[2].any()
    assert len(draw_mix_classes(label, [torch.Generator()])[0]) == 2  # half of 0, 1 and 2, rounded up
    torch.testing.assert_close(update_class_distribution(torch.zeros(3), label, 0.0), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("balance", [0.0, 0.5, 0.9, 1.0])
def test_source_images_are_drawn_by_proportions(balance):
    """Eq. 3 and 4 of UncerDA do not feel a factor on all counts: shares of the pixels give what their numbers give."""
    counts = torch.tensor([[900, 0, 5], [100, 30, 0], [1, 0, 0]])
    by_numbers = soft_balance_probabilities(counts, [1, 2], balance)
    torch.testing.assert_close(soft_balance_probabilities(counts / 1e6, [1, 2], balance), by_numbers)


@pytest.mark.parametrize("count", [-1.0, float("nan"), float("inf")])
def test_what_cannot_be_counted_has_no_probability(count):
    counts = torch.tensor([count, 1.0])
    for formula, given in ((rare_class_probabilities, counts), (soft_balance_probabilities, counts[None])):
        with pytest.raises(ValueError, match="pixel_counts must not be negative, infinite or NaN"):
            formula(given)


def test_one_class_has_no_entropy():
    with pytest.raises(ValueError, match="at least 2 classes"):
        self_information(torch.zeros(1, 1, 2, 2))
