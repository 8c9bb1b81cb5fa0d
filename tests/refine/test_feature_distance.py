"""Feature distance: which cells count, what it measures, and that the reference stays frozen."""

import pytest
import torch

from refine.steps import source_step
from segrefinery.core.errors import SegRefineryError
from segrefinery.labels import LabelSpace
from segrefinery.models.hrda import HRDA, HRDASettings
from segrefinery.refine.base import Step
from segrefinery.refine.feature_distance import (
    FeatureDistanceSettings,
    cells_of_classes,
    masked_feature_distance,
)
from toys import ToySegmenter, labeled

SPACE = LabelSpace.of("toy", ("road", "car", "person", "sky", "tree"))


def make_step(student: torch.nn.Module) -> Step:
    source = labeled()
    source.label[:, 8:16, 8:16] = 1
    return Step(0, student, source_step(student, source))


def test_exactly_three_quarters_of_a_cell_is_enough():
    label = torch.zeros(1, 4, 8, dtype=torch.int64)
    label[0, :, :3] = 1  # 12 of 16 pixels
    label[0, :, 4:6] = 1
    label[0, :3, 6] = 1  # 11 of 16 pixels
    assert cells_of_classes(label, [1], (1, 2)).tolist() == [[[True, False]]]


def test_classes_are_not_added_up_and_ignored_pixels_belong_to_none():
    label = torch.tensor([[[1, 1, 2, 2], [255, 255, 255, 255]]])
    assert not cells_of_classes(label, [1, 2], (1, 1)).any()
    assert cells_of_classes(label, [1, 2], (1, 2)).tolist() == [[[False, False]]]
    assert cells_of_classes(label[:, :1], [1, 2], (1, 2)).tolist() == [[[True, True]]]


def test_distance_by_hand():
    features = torch.tensor([[[[3.0, 1.0]], [[4.0, 1.0]]]])
    mask = torch.tensor([[[True, False]]])
    assert masked_feature_distance(features, torch.zeros_like(features), mask) == 5.0
    assert masked_feature_distance(features, torch.zeros_like(features), ~mask) == pytest.approx(2**0.5)


def test_empty_mask_gives_zero_and_zero_gradients():
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    for reference in (torch.zeros(1, 4, 2, 2), features.detach()):
        loss = masked_feature_distance(features, reference, torch.zeros(1, 2, 2, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss == 0
        assert not gradient.any()


def test_equal_features_have_a_finite_gradient():
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    masked_feature_distance(features, features.detach(), torch.ones(1, 2, 2, dtype=torch.bool)).backward()
    assert features.grad.isfinite().all()


def test_loss_in_a_supervised_step():
    torch.manual_seed(0)
    student = ToySegmenter()
    refiner = FeatureDistanceSettings().build(student, SPACE).train()
    assert refiner.classes == (2, 1)
    assert refiner.losses(make_step(student))["feature_distance"] == 0
    with torch.no_grad():
        student.deep.weight.mul_(1.5)
    step = make_step(student)
    loss = refiner.losses(step)["feature_distance"]
    reference = refiner.reference(step.source.batch.image).levels[-1]
    mask = cells_of_classes(step.source.batch.label, (1, 2), (4, 6))
    expected = 0.005 * masked_feature_distance(step.source.prediction.levels[-1], reference, mask)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.deep.weight.grad.abs().sum() > 0


def test_reference_is_frozen_and_part_of_the_state():
    refiner = FeatureDistanceSettings().build(ToySegmenter(), SPACE).train()
    assert not any(module.training for module in refiner.modules())
    assert not any(parameter.requires_grad for parameter in refiner.parameters())
    assert "reference.deep.weight" in refiner.state_dict()


def test_hrda_is_measured_on_its_context():
    torch.manual_seed(0)
    student = HRDA(ToySegmenter(), HRDASettings(detail=16, divisor=8, attention_width=8))
    refiner = FeatureDistanceSettings().build(student, SPACE)
    assert refiner.losses(make_step(student))["feature_distance"] == 0


def test_classes_by_name():
    refiner = FeatureDistanceSettings(classes=("sky", "Car")).build(ToySegmenter(), SPACE)
    assert refiner.classes == (3, 1)
    with pytest.raises(SegRefineryError, match="boat"):
        FeatureDistanceSettings(classes=("boat",)).build(ToySegmenter(), SPACE)
    with pytest.raises(SegRefineryError, match="cell, nucleus"):
        FeatureDistanceSettings().build(ToySegmenter(), LabelSpace.of("cells", ("cell", "nucleus")))
