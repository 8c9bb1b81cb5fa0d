"""Every refiner keeps the contract, alone and in company."""

import copy
import warnings

import pytest
import torch

from refine.contract import (
    CASES,
    NAMES,
    NARROW,
    WITHOUT_EFFECT,
    RefinerContract,
    check_finite,
    check_labels,
    make_world,
)
from refine.steps import finish, target_of
from segrefinery.core.randomness import generator
from segrefinery.labels import LabelSpace
from segrefinery.refine import REFINERS, PseudoLabels
from segrefinery.stages.base import Passes, StageContext, StepBatch
from segrefinery.stages.self_training import SelfTrainingSettings
from toys import ToySegmenter, labeled, unlabeled

TRUSTING = {"threshold": 0.3}
SPACE = LabelSpace("toy", NAMES, tuple((c, c, c) for c in range(5)))


@pytest.mark.parametrize("case", CASES)
class TestEveryRefiner(RefinerContract):
    pass


@pytest.mark.parametrize("first", REFINERS)
def test_any_two_refiners_stack_in_either_order(first):
    one = make_world(first)
    for second in REFINERS:
        if second == first:
            continue
        other = make_world(second)
        view = one.view
        start = PseudoLabels.from_view(view)
        middle = one.refiner(view, start)
        end = other.refiner(view, middle)
        check_labels(start, middle)
        check_labels(middle, end)
        step = other.step(labels=middle)
        check_finite(one.refiner.losses(step) | other.refiner.losses(step))
        finish(one.refiner, step)
        finish(other.refiner, step)


@pytest.mark.parametrize("case", ["confidence_threshold/running", "instance_adaptive"])
def test_every_micro_batch_of_a_step_counts(case):
    states = []
    for first in (1.0, -1.0):
        world = make_world(case)
        view = world.view
        one = PseudoLabels((first * view.logits).softmax(dim=1), view.probs[:, 0])
        for labels in (one, target_of(world.step()).labels):
            world.refiner(view, labels)
        finish(world.refiner, world.step())
        states.append(world.refiner.state_dict())
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def student_after(refine: dict, steps: int = 2) -> dict[str, torch.Tensor]:
    """The student's weights after some steps of self-training with a chain of refiners."""
    torch.manual_seed(0)
    model = ToySegmenter()
    context = StageContext(model, model, copy.deepcopy(model), SPACE)
    stage = SelfTrainingSettings(steps=steps, refine=refine).build(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stage.prepare(Passes([labeled(1)], [unlabeled(1)], folder=None))  # pyright: ignore[reportArgumentType]
    stage.train()
    optimizer = stage.optimizers()["model"].optimizer
    for number in range(steps):
        torch.manual_seed(number)
        random = [generator(number, place) for place in range(2)]
        batch = StepBatch(number, labeled(seed=number), unlabeled(seed=number + 9), random)
        optimizer.zero_grad()
        for losses in stage.step(batch):
            torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        stage.after_step(batch)
    return stage.model.state_dict()


@pytest.fixture(scope="module")
def plain():
    return student_after({"confidence_share": TRUSTING})


@pytest.mark.parametrize("name", [name for name in REFINERS if name != "confidence_share"])
def test_a_refiner_that_is_switched_off_changes_nothing(plain, name):
    off = student_after({"confidence_share": TRUSTING, name: False})
    assert all(torch.equal(plain[key], off[key]) for key in plain)


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_refiner_without_weight_leaves_the_student_alone(plain, name):
    settings = NARROW.get(name, {})
    idle = student_after({"confidence_share": TRUSTING, name: settings | WITHOUT_EFFECT[name]})
    assert all(torch.equal(plain[key], idle[key]) for key in plain)
    if name != "pixel_attention":  # untrained, it may have little to say
        busy = student_after({"confidence_share": TRUSTING, name: settings | {"weight": 1.0}})
        assert any(not torch.equal(plain[key], busy[key]) for key in plain)


@pytest.mark.parametrize("name", ["refinement_network"])
def test_a_refiner_that_only_learns_leaves_the_student_alone(plain, name):
    """During its warm-up it trains itself, and labels stay as they are."""
    waiting = student_after({"confidence_share": TRUSTING, name: NARROW[name] | {"warmup": 100}})
    assert all(torch.equal(plain[key], waiting[key]) for key in plain)
