import math

import pytest
import torch

from segrefinery.evaluation.calibration import Calibration, expected_calibration_error


def test_two_bins_by_hand():
    # 0.6 and 0.8, one right: |0.7 - 0.5| of half the pixels; 0.2 and 0.4, none right: |0.3 - 0| of the other half.
    confidence = torch.tensor([0.6, 0.8, 0.2, 0.4])
    correct = torch.tensor([True, False, False, False])
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.5 * 0.2 + 0.5 * 0.3)


def test_sure_and_right_is_0_sure_and_wrong_is_1():
    sure = torch.ones(5, 7)
    assert expected_calibration_error(sure, sure.bool()) == 0
    assert expected_calibration_error(sure, ~sure.bool()) == 1


def test_honest_confidence_has_a_small_error_and_boasting_a_large_one():
    rng = torch.Generator().manual_seed(0)
    honest = torch.rand(200_000, generator=rng)
    correct = torch.rand(200_000, generator=rng) < honest
    assert expected_calibration_error(honest, correct) < 0.01
    assert expected_calibration_error(honest.sqrt(), correct) == pytest.approx(2 / 3 - 1 / 2, abs=0.01)


def test_parts_add_up_to_the_whole():
    rng = torch.Generator().manual_seed(1)
    confidence, correct = torch.rand(100, generator=rng), torch.rand(100, generator=rng) < 0.5
    parts = Calibration()
    for start in range(0, 100, 30):
        parts.update(confidence[start : start + 30], correct[start : start + 30])
    assert parts.error == pytest.approx(expected_calibration_error(confidence, correct))


def test_nothing_seen_gives_no_error_value():
    assert math.isnan(Calibration().error)


@pytest.mark.parametrize("confidence", [torch.rand(3), torch.full((2,), 1.5), torch.full((2,), torch.nan)])
def test_wrong_input_is_named(confidence):
    with pytest.raises(ValueError, match="confidence"):
        Calibration().update(confidence, torch.zeros(2, dtype=torch.bool))
