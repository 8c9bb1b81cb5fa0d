"""Every shipped recipe, killed inside its last two stages and resumed, ends with the same weights, bit for bit."""

from __future__ import annotations

import pytest
import torch

import segrefinery.engine.loop as loop
from runs import narrow, tiny_run
from segrefinery.engine.run import plan
from segrefinery.recipe import load_recipe, recipe_names

HEAVY = ("hrda", "ir2f_hrda", "dinov2")
STEPS = {"supervised": 3, "adversarial": 3, "self_training": 4, "distillation": 3, "entropy_minimization": 3}


class Killed(BaseException):
    """Stands for a process that dies without a chance to clean up."""


def result(run, stage):
    """All that a finished stage leaves: the network and what its refiners learned."""
    state = torch.load(run / "stages" / stage / "result.pt", weights_only=True)
    parts = {"model": state["model"], **state["handed_on"]}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


FIXED_LABELS = ("stages.adapt.labels=offline", "stages.adapt.refine.confidence_threshold.classes=fitted")
CASES = [pytest.param(name, (), id=name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in recipe_names()]
CASES.append(pytest.param("pixel_attention", FIXED_LABELS, id="fixed-labels"))
ALL_FIVE = (
    "stages.source.refine=[{implicit_rectification: {queries: 64, hidden: 8}}]",
    "stages.adapt.refine=[{implicit_rectification: {queries: 64, hidden: 8}}, "
    "{refinement_network: {width: 8, warmup: 1, norm: group}}, "
    "{self_labeling: {soft_labels: chain, samples: 16, bank: 256}}, {entropy_mixture: {}}, {pixel_attention: {}}]",
)
CASES.append(pytest.param("pixel_attention", ALL_FIVE, id="all-five", marks=[pytest.mark.slow]))


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_resume_is_exact(name, changes, tmp_path, monkeypatch):
    overrides = [*narrow(name, STEPS), *changes]

    def run(folder, **options):
        return tiny_run(tmp_path / folder, name, overrides, evaluation=None, **options)

    steps = {stage: settings.steps for stage, settings in plan(load_recipe(name, "small", overrides).stages).items()}
    whole = run("whole")
    trained = [stage for stage in steps if (whole / "stages" / stage / "result.pt").exists()]
    one_step, died = loop.one_step, set()

    def mortal(fabric, stage, *arguments):
        number = arguments[3]
        if stage in trained[-2:] and number == steps[stage] - 1 and stage not in died:
            died.add(stage)
            raise Killed
        return one_step(fabric, stage, *arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    for resume in range(len(trained[-2:])):
        with pytest.raises(Killed):
            run("killed", resume=bool(resume))
    killed = run("killed", resume=True)
    assert died == set(trained[-2:])
    for stage in trained:
        one, other = result(whole, stage), result(killed, stage)
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == [], stage
