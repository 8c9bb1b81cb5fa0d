"""Formulas at the edges of what they are given: nothing at all, one class, half precision."""

import pytest
import torch

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


def test_a_class_distribution_in_half_precision_is_rounded_once():
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    start = torch.tensor([0.1, 0.9], dtype=torch.bfloat16)
    exact = 0.77 * start.double() + 0.23 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert torch.equal(update_class_distribution(start, labels, 0.77), exact.to(torch.bfloat16))


def test_one_class_has_no_entropy():
    with pytest.raises(ValueError, match="at least 2 classes"):
        self_information(torch.zeros(1, 1, 2, 2))
