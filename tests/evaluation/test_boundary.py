import math

import pytest
import torch

from segrefinery.evaluation.boundary import boundary_counts, boundary_iou, boundary_mask


def test_a_straight_border_has_the_width_on_each_side():
    label = torch.zeros(6, 10, dtype=torch.int64)
    label[:, 5:] = 3
    assert boundary_mask(label, 1)[0].tolist() == [False] * 4 + [True] * 2 + [False] * 4
    assert boundary_mask(label, 3).sum(dim=1).tolist() == [6] * 6


def test_a_single_pixel_is_surrounded_by_a_square():
    label = torch.zeros(1, 9, 9, dtype=torch.int64)
    label[0, 4, 4] = 1
    mask = boundary_mask(label, 2)
    assert mask.sum() == 25
    assert mask[0, 2:7, 2:7].all()


def test_class_ids_are_not_distances_and_zero_is_a_class():
    label = torch.tensor([[0, 0, 0, 1, 1, 1, 18, 18, 18]])
    assert boundary_mask(label, 1).int().tolist() == [[0, 0, 1, 1, 0, 1, 1, 0, 0]]


def test_ignored_pixels_make_no_border_and_are_never_inside():
    label = torch.zeros(5, 5, dtype=torch.int64)
    label[:, 2] = 255
    assert not boundary_mask(label, 2).any()
    label[:, 3:] = 1
    assert boundary_mask(label, 2).int()[0].tolist() == [0, 1, 0, 1, 0]


def test_images_of_a_batch_do_not_touch():
    label = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long()
    assert not boundary_mask(label, 3).any()


def test_only_pixels_in_the_trimap_count():
    label = torch.zeros(4, 8, dtype=torch.int64)
    label[:, 4:] = 1
    pred = label.clone()
    pred[:, 0] = 1  # far from the border
    assert boundary_iou(pred, label, 2, num_classes=2) == 1.0
    pred[:, 3] = 1  # four of the eight pixels of class 0 inside
    counts = boundary_counts(pred, label, 2, num_classes=2)
    assert counts.matrix.tolist() == [[4, 4], [0, 8]]
    assert boundary_iou(pred, label, 2, num_classes=2) == pytest.approx((4 / 8 + 8 / 12) / 2)


def test_no_border_gives_no_score():
    assert math.isnan(boundary_iou(torch.zeros(3, 3).long(), torch.zeros(3, 3).long(), 1, num_classes=2))


@pytest.mark.parametrize(("shape", "width"), [((4, 4), 0), ((1, 1, 4, 4), 1)])
def test_wrong_arguments_are_named(shape, width):
    with pytest.raises(ValueError, match=r"width|label"):
        boundary_mask(torch.zeros(shape), width)
