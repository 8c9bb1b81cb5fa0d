"""Rates at each step, and who gets which."""

import pytest

from segrefinery.stages.optimizers import OptimizerSettings, schedule


@pytest.mark.parametrize(("step", "factor"), [(0, 1e-6), (749, 0.489984), (1499, 0.961883), (1500, 0.9625), (40000, 0)])
def test_daformers_schedule(step, factor):
    """(1 - t / 40000) (1 - (1 - t / 1500) (1 - 1e-6)), the values to six digits."""
    rate = schedule(OptimizerSettings(warmup=1500, warmup_ratio=1e-6), 40000)
    assert rate(step) == pytest.approx(factor, abs=1e-6, rel=1e-5)


def test_a_warm_up_rises_in_equal_parts_by_default():
    rate = schedule(OptimizerSettings(power=0, warmup=4), 10)
    assert [rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_poly_decay_ends_at_its_horizon():
    rate = schedule(OptimizerSettings(power=0.9, horizon=100), 50)
    assert rate(0) == 1.0
    assert rate(50) == pytest.approx(0.5**0.9)
    assert rate(100) == rate(120) == 0.0
