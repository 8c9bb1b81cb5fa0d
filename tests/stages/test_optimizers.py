"""Rates at each step, and who gets which."""

import pytest
import torch
from torch import nn

from segrefinery.refine.base import Refiner
from segrefinery.stages.optimizers import OptimizerSettings, build_optimizer, refined_optimizers, schedule
from toys import ToySegmenter


@pytest.mark.parametrize(("step", "factor"), [(0, 1e-6), (749, 0.489984), (1499, 0.961883), (1500, 0.9625), (40000, 0)])
def test_daformers_schedule(step, factor):
    """(1 - t / 40000) (1 - (1 - t / 1500) (1 - 1e-6)), the values to six digits."""
    rate = schedule(OptimizerSettings(warmup=1500, warmup_ratio=1e-6), 40000)
    assert rate(step) == pytest.approx(factor, abs=1e-6, rel=1e-5)


def test_a_warm_up_rises_in_equal_parts_by_default():
    rate = schedule(OptimizerSettings(power=0, warmup=4), 10)
    assert [rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_rate_drops_to_a_tenth_again_and_again():
    rate = schedule(OptimizerSettings(power=0, drop_every=50_000), 120_000)
    assert [rate(step) for step in (0, 49_999, 50_000, 99_999, 100_000)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_poly_decay_ends_at_its_horizon():
    rate = schedule(OptimizerSettings(power=0.9, horizon=100), 50)
    assert rate(0) == 1.0
    assert rate(50) == pytest.approx(0.5**0.9)
    assert rate(100) == rate(120) == 0.0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_parameter_whose_gradient_comes_later_starts_then(name):
    """As the projection of a loss with a warm-up; by plain arithmetic for SGD."""
    early, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    settings = OptimizerSettings(name=name, lr=0.1, momentum=0.9, power=0)
    groups = [{"params": [early, late], "lr": 0.1, "base_lr": 0.1, "weight_decay": 0.0}]
    optimizer = build_optimizer(groups, settings, 10).optimizer
    for number in range(3):
        optimizer.zero_grad()
        (early.sum() + (late.sum() if number else 0)).backward()
        optimizer.step()
    if name == "sgd":
        torch.testing.assert_close(early.detach(), torch.full((2,), 1 - 0.1 * (1 + 1.9 + 2.71)))
        torch.testing.assert_close(late.detach(), torch.full((2,), 1 - 0.1 * (1 + 1.9)))
    assert (early < late).all()


def rates_of(settings: OptimizerSettings, network: nn.Module, refiner: Refiner) -> dict[str, float]:
    """By name of each parameter of both, its rate."""
    trained = refined_optimizers(network, {"head": refiner}, settings, 3)["model"]  # pyright: ignore[reportArgumentType]
    rates = {id(each): group["base_lr"] for group in trained.optimizer.param_groups for each in group["params"]}
    named = [*network.named_parameters(), *refiner.named_parameters()]
    return {name: rates[id(parameter)] for name, parameter in named if id(parameter) in rates}


class Normed(ToySegmenter):
    """With a norm, whose shift is no bias of BDL's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)


def test_who_trains_at_which_rate():
    """Encoder, heads and refiners; then as BDL trains FCN-8s: all alike, but biases twice as fast."""
    usual = rates_of(OptimizerSettings(lr=1.0, head_factor=3), Normed(), Head(None))
    assert {name: usual[name] for name in ("stem.bias", "classifier.weight", "classifier.bias", "numbers")} == {
        "stem.bias": 1, "classifier.weight": 3, "classifier.bias": 3, "numbers": 10,
    }  # fmt: skip
    bdl = rates_of(OptimizerSettings(lr=1.0, head_factor=1, refiner_factor=1, bias_factor=2), Normed(), Head(None))
    assert {name for name, rate in bdl.items() if rate == 2} == {
        "stem.bias", "deep.bias", "classifier.bias", "auxiliary.bias",
    }  # fmt: skip
    assert {rate for name, rate in bdl.items() if "bias" not in name} == {1}
    assert bdl["norm.bias"] == 1


def test_a_refiner_may_say_its_own_factor():
    refiner = Head(None)
    refiner.learning_rate_factor = 7
    assert rates_of(OptimizerSettings(lr=1.0), ToySegmenter(), refiner)["numbers"] == 7


class Head(Refiner):
    """Four numbers, moved by SGD or with the network."""

    def __init__(self, rate: float | None) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(4))
        self.sgd_rate = rate


@pytest.mark.parametrize(("rate", "ratio"), [(0.5, 10.0), (None, 1.0)])
def test_under_sgd_the_weight_of_a_loss_counts(rate, ratio):
    """Ten times the weight moves the head ten times as far; an adaptive optimizer does not feel it."""
    moved = []
    for weight in (0.1, 0.01):
        head, network = Head(rate), ToySegmenter()
        for trained in refined_optimizers(network, {"head": head}, OptimizerSettings(lr=1e-2), 3).values():
            for _ in range(3):
                trained.optimizer.zero_grad()
                (weight * (head.numbers * torch.arange(1.0, 5.0)).sum()).backward()
                trained.optimizer.step()
        moved.append(float(head.numbers.detach().norm()))
    assert moved[0] / moved[1] == pytest.approx(ratio, rel=1e-3)


def test_each_parameter_has_one_optimizer_and_frozen_networks_have_none():
    settings, network = OptimizerSettings(weight_decay=0.1, momentum=0.8), ToySegmenter()
    refiners = {"descends": Head(0.5), "joins": Head(None)}
    trained = refined_optimizers(network, refiners, settings, 3)
    assert list(trained) == ["model", "descends"]
    own = trained["descends"].optimizer
    assert isinstance(own, torch.optim.SGD)
    (group,) = own.param_groups
    assert (group["base_lr"], group["weight_decay"], group["momentum"]) == (0.5, 0, 0.8)
    held = [id(p) for each in trained.values() for group in each.optimizer.param_groups for p in group["params"]]
    wanted = [*network.parameters(), *(head.numbers for head in refiners.values())]
    assert sorted(held) == sorted(id(parameter) for parameter in wanted)
    assert list(refined_optimizers(network.requires_grad_(False), {"descends": Head(0.5)}, settings, 3)) == ["descends"]
