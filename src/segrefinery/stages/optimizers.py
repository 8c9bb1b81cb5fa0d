"""Optimizers and learning-rate schedules. A rate is a function of the step number, so it has no state to resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segrefinery.models.segmenter import Segmenter
from segrefinery.refine.base import Refiner
from segrefinery.stages.settings import OptimizerSettings

log = logging.getLogger(__name__)


@dataclass
class ScheduledOptimizer:
    """An optimizer and the factor on each group's ``base_lr`` at a step."""

    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]


def schedule(settings: OptimizerSettings, steps: int) -> Callable[[int], float]:
    """Factor on the base rate at each step: poly decay times linear warm-up (DAFormer's poly10warm for power 1 and a
    ratio of 1e-6), times a tenth for every ``drop_every`` steps."""
    horizon = settings.horizon or max(steps, 1)

    def rate(step: int) -> float:
        dropped = 0.1 ** (step // settings.drop_every) if settings.drop_every else 1.0
        return max(1.0 - step / horizon, 0.0) ** settings.power * dropped * warm(step)

    def warm(step: int) -> float:
        if step >= settings.warmup:
            return 1.0
        if settings.warmup_ratio is None:
            return (step + 1) / settings.warmup
        return 1.0 - (1.0 - step / settings.warmup) * (1.0 - settings.warmup_ratio)

    return rate


def parameter_groups(
    model: Segmenter, settings: OptimizerSettings, heads: Iterable[tuple[nn.Module, float]] = ()
) -> list[dict]:
    """Encoder at the base rate, the model's heads at ``head_factor`` times it, and each of ``heads`` (module, factor)
    at its own factor; biases and norms without weight decay, and the network's biases at ``bias_factor`` times their
    rate. A parameter enters once, however often it is reachable."""
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    biases = biases_of(model) if settings.bias_factor != 1 else set()
    above = model.layers_above() if settings.layer_decay != 1 else {}
    if above is None:
        log.warning("optimizer.layer_decay: where the layers of this network begin is not known; all train at one rate")
    rates: dict[tuple[float, bool], list[nn.Parameter]] = {}
    entered: set[int] = set()

    def add(parameter: nn.Parameter, factor: float) -> None:
        if parameter.requires_grad and id(parameter) not in entered:
            entered.add(id(parameter))
            if id(parameter) in biases:
                factor *= settings.bias_factor
            rates.setdefault((factor, parameter.ndim > 1), []).append(parameter)

    for parameter in model.parameters():
        if id(parameter) in backbone:
            add(parameter, settings.layer_decay ** (above or {}).get(id(parameter), 0))
        else:
            add(parameter, settings.head_factor if backbone else 1.0)
    for module, factor in heads:
        for parameter in module.parameters():
            add(parameter, factor if backbone else 1.0)
    return [
        {
            "params": parameters,
            "lr": settings.lr * factor,
            "base_lr": settings.lr * factor,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (factor, decayed), parameters in rates.items()
    ]


def biases_of(network: nn.Module) -> set[int]:
    """The ``id`` of each bias of its convolutions and linear maps; a norm's shift is none."""
    weighted = (module for module in network.modules() if getattr(getattr(module, "weight", None), "ndim", 0) > 1)
    return {id(bias) for module in weighted if (bias := getattr(module, "bias", None)) is not None}


class _SGD(torch.optim.SGD):
    """SGD that takes a parameter whose first gradient comes later than others', as those of a loss with a warm-up:
    its velocity is 0 until then. torch's fused one ends with a ``TypeError`` there."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                if parameter.grad is not None and self.state[parameter].get("momentum_buffer") is None:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return super().step(closure)


def build_optimizer(groups: list[dict], settings: OptimizerSettings, steps: int) -> ScheduledOptimizer:
    """The optimizer over ready-made groups and its schedule over ``steps``."""
    # One kernel over all parameters instead of a dozen small ones each, where torch has it.
    fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group["params"])
    if settings.name == "sgd":
        optimizer: torch.optim.Optimizer = _SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)
    else:
        kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
        optimizer = kind(groups, lr=settings.lr, betas=settings.betas, fused=fused)
    return ScheduledOptimizer(optimizer, schedule(settings, steps))


def refined_optimizers(
    model: Segmenter, refiners: Mapping[str, Refiner], settings: OptimizerSettings, steps: int
) -> dict[str, ScheduledOptimizer]:
    """``model``: of the network and of the refiners that join it; then SGD for each refiner with a rate of its own, by
    its name and without weight decay."""
    joined = [
        (refiner, refiner.learning_rate_factor or settings.refiner_factor)
        for refiner in refiners.values()
        if refiner.sgd_rate is None
    ]
    groups = parameter_groups(model, settings, joined)
    trained = {"model": build_optimizer(groups, settings, steps)} if groups else {}
    for name, refiner in refiners.items():
        if (rate := refiner.sgd_rate) is not None:
            parameters = [parameter for parameter in refiner.parameters() if parameter.requires_grad]
            group = {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": 0.0}
            trained[name] = build_optimizer([group], settings.model_copy(update={"name": "sgd"}), steps)
    return trained
