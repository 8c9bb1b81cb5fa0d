"""What a recipe would cost on this machine: time and memory of its stages, from timed passes of its networks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from segrefinery.core.processor import free_cores, usable_cores
from segrefinery.engine.model import default_device
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.segmenter import bands_read
from segrefinery.recipe import Recipe
from segrefinery.stages.common import head_losses
from segrefinery.stages.settings import LossWeights, StageSettings

PATIENCE = 6.0
"""Seconds that the timed pass at the recipe's own crop may be expected to take; beyond, a smaller crop is timed."""
PASSES = 5
"""Passes that are timed at most."""
SMALLEST = 64
"""Shortest side of a crop that is timed."""
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}
"""Copies of the weights that an optimizer keeps."""


@dataclass(frozen=True)
class Cost:
    """What one forward and backward pass of a batch takes.

    Attributes:
        seconds: for the recipe's batch and crop. activations: bytes kept for the backward pass of one micro-batch.
        parameters: of the network.
        timed: (images, height, width) that was run; the rest is scaled by the number of pixels.
    """

    seconds: float
    activations: int
    parameters: int
    timed: tuple[int, int, int]
    device: torch.device


@dataclass(frozen=True)
class StageCost:
    """What a stage would take: its optimizer steps, all repeats together, seconds of one, and bytes of memory."""

    name: str
    steps: int
    step_seconds: float
    memory: float

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds


@dataclass(frozen=True)
class Estimate:
    """Time and memory of every stage.

    Attributes:
        timed: the pass of the first stage's network. whole: whether the recipe's own batch and crop were timed.
        machine: the GPU, or the number of processor threads. busy: whether others work on the processor's cores, so
            that the times say little.
    """

    stages: tuple[StageCost, ...]
    timed: Cost
    whole: bool
    machine: str
    busy: bool

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def estimate_cost(recipe: Recipe, classes: int, network: ModelSettings | None = None) -> Estimate:
    """Time and memory of every stage, from one timed pass of each network on random images.

    Args:
        network: of the model that the run starts from, in place of the recipe's.
    """
    busy = free_cores() < usable_cores()  # before our own threads work
    costs: dict[str, Cost] = {}
    stages = []
    for name, stage in recipe.stages.items():
        model = stage.model or network or recipe.model
        if model.name not in costs:
            costs[model.name] = measure(recipe, classes, model)
        cost = costs[model.name]
        seconds, memory = step_seconds(cost, stage, recipe), step_bytes(cost, stage, recipe)
        stages.append(StageCost(name, stage.steps * stage.repeats, seconds, memory))
    first = next(iter(costs.values()))
    whole = (micro_batch(recipe), *recipe.data.crop) == first.timed
    return Estimate(tuple(stages), first, whole, machine(first.device), busy)


def machine(device: torch.device) -> str:
    count = torch.get_num_threads()
    return (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{count} processor thread{'' if count == 1 else 's'}"
    )


def measure(recipe: Recipe, classes: int, model: ModelSettings | None = None) -> Cost:
    """Time a training pass of a network: first a small one, then the recipe's own crop if that is quick enough.

    Args:
        model: by default the recipe's. Pre-trained weights are not loaded.
    """
    device = default_device()
    bf16 = recipe.training.precision == "bf16-mixed"
    network = build_model((model or recipe.model).model_copy(update={"weights": "none"}), classes).to(device).train()
    whole = (micro_batch(recipe), *recipe.data.crop)
    timed = _small(whole)
    seconds, activations = typical_pass(network, timed, classes, device, bf16)
    if timed != whole and seconds * _pixels(whole) / _pixels(timed) <= PATIENCE:
        timed = whole
        seconds, activations = typical_pass(network, timed, classes, device, bf16)
    factor = _pixels(whole) / _pixels(timed)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    batch = factor * seconds * recipe.training.accumulate
    return Cost(batch, round(factor * activations), parameters, timed, device)


def typical_pass(
    network: nn.Module, shape: tuple[int, int, int], classes: int, device: torch.device, bf16: bool
) -> tuple[float, int]:
    """The median of some timed passes, as many as patience allows; the first does not count if there is a second, for
    it also pays for what happens once."""
    first, activations = timed_pass(network, shape, classes, device, bf16)
    seconds: list[float] = []
    while len(seconds) < PASSES and first + sum(seconds) < PATIENCE:
        seconds.append(timed_pass(network, shape, classes, device, bf16)[0])
    return median(seconds or [first]), activations


def timed_pass(
    network: nn.Module, shape: tuple[int, int, int], classes: int, device: torch.device, bf16: bool
) -> tuple[float, int]:
    """Seconds of a forward and backward pass over random images, and the bytes it keeps in between."""
    images, height, width = shape
    image = torch.randn(images, bands_read(network), height, width, device=device)
    label = torch.randint(classes, (images, height, width), device=device)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    _wait(device)
    begin = time.perf_counter()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        prediction = network(image)
        losses = head_losses("timed", prediction, label, None, LossWeights(main=1.0, aux=1.0))
        loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    _wait(device)
    seconds = time.perf_counter() - begin
    network.zero_grad(set_to_none=True)
    return seconds, sum(kept.values())


def step_seconds(cost: Cost, stage: StageSettings, recipe: Recipe) -> float:
    """Time of one optimizer step of a stage."""
    passes = stage.passes + sum(refiner.passes for refiner in stage.chain.values())
    return cost.seconds * passes * _relative_size(stage, recipe)


def step_bytes(cost: Cost, stage: StageSettings, recipe: Recipe) -> float:
    """Memory of a stage: weights, gradients, the optimizer's moments, a teacher, and one micro-batch's activations."""
    copies = 2 + MOMENTS.get(stage.optimizer.name, 2) + (1 if stage.takes_target else 0)
    return 4.0 * copies * cost.parameters + cost.activations * _relative_size(stage, recipe)


def micro_batch(recipe: Recipe) -> int:
    return math.ceil(recipe.data.batch / recipe.training.accumulate)


def _relative_size(stage: StageSettings, recipe: Recipe) -> float:
    """A stage's batch and crop, in pixels, against the recipe's."""
    height, width = stage.crop or recipe.data.crop
    pixels = (stage.batch or recipe.data.batch) * height * width
    return pixels / (recipe.data.batch * recipe.data.crop[0] * recipe.data.crop[1])


def _small(whole: tuple[int, int, int]) -> tuple[int, int, int]:
    """One image of a crop at most 128 pixels long, of the same shape; two where batch norm needs them."""
    images, height, width = whole
    factor = min(1.0, 128 / max(height, width))
    sides = (max(round(side * factor / 32) * 32, min(side, SMALLEST)) for side in (height, width))
    return (min(images, 2), *sides)  # pyright: ignore[reportReturnType]


def _pixels(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
