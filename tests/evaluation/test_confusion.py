"""The confusion matrix against values worked out by hand."""

import math

import pytest
import torch

from segrefinery.evaluation.confusion import ConfusionMatrix


def test_scores_of_a_small_example():
    # reference 0 0 0 1 1 2 and prediction 0 0 1 1 2 2: hits 2, 1, 1; unions 3, 3, 2.
    counts = ConfusionMatrix(4)
    counts.update(torch.tensor([[0, 0, 1, 1, 2, 2, 3]]), torch.tensor([[0, 0, 0, 1, 1, 2, 255]]))
    assert counts.matrix.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert counts.iou[:3].tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert math.isnan(counts.iou[3])
    assert counts.miou == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert counts.pixel_accuracy == pytest.approx(4 / 6)
    assert counts.mean_pixel_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_a_class_only_predicted_counts_as_zero_iou_but_not_in_mean_accuracy():
    counts = ConfusionMatrix(2)
    counts.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert counts.miou == pytest.approx(0.25)
    assert counts.mean_pixel_accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("given", [{"pred": torch.tensor([0.9])}, {"label": torch.tensor([0.0])}])
def test_fractions_are_no_classes(given):
    whole = {"pred": torch.tensor([0]), "label": torch.tensor([0])}
    with pytest.raises(ValueError, match=f"{next(iter(given))} holds torch.float32; integer class ids expected"):
        ConfusionMatrix(2).update(**whole | given)


def test_sum_of_parts_equals_the_whole():
    pred, label = torch.randint(0, 5, (4, 9, 7)), torch.randint(0, 5, (4, 9, 7))
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(pred, label)
    for i in range(4):
        one = ConfusionMatrix(5)
        one.update(pred[i], label[i])
        parts.merge(one)
    assert torch.equal(whole.matrix, parts.matrix)


def test_nothing_counted_is_nan():
    counts = ConfusionMatrix(3)
    counts.update(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255))
    assert math.isnan(counts.miou)
    assert math.isnan(counts.pixel_accuracy)


@pytest.mark.parametrize(
    ("pred", "label"),
    [(torch.zeros(2), torch.zeros(3)), (torch.tensor([7]), torch.tensor([0])), (torch.tensor([0]), torch.tensor([9]))],
)
def test_bad_input_is_named(pred, label):
    with pytest.raises(ValueError, match=r"pred|label"):
        ConfusionMatrix(3).update(pred, label)
