"""``segrefinery check``: what a planned run would meet, and what it would cost on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.words import printable
from segrefinery.data.check import CheckReport, Role, check
from segrefinery.data.datasets import open_dataset
from segrefinery.engine.model import default_device
from segrefinery.models import ModelSettings, build_model
from segrefinery.recipe import Recipe, load_recipe
from segrefinery.stages.base import StageSettings

PATIENCE = 6.0
"""Seconds that the timed pass at the recipe's own crop may be expected to take; beyond, a smaller crop is timed."""
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


def print_checkup(
    console: Console,
    source: str,
    target: str,
    evaluation: str | None = None,
    recipe: str = "self_training",
    scale: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    overrides: Sequence[str] = (),
    labels: str | None = None,
) -> bool:
    """Print what the data hold, what is wrong with them, and what the recipe would cost -> whether a run can start.

    Raises:
        SegRefineryError: the recipe or a data set does not exist at all.
    """
    named: dict[Role, str | None] = {"source": source, "target": target, "labels": labels, "evaluation": evaluation}
    plan = load_recipe(recipe, scale, overrides, **named)
    sets = {role: open_dataset(reference) for role, reference in named.items() if reference}
    begins, total = {}, 0
    for role, dataset in sets.items():
        begins[role], total = total, total + len(dataset)
    report = check(
        **sets, space=plan.classes, merge=plan.merge,
        progress=lambda role, done, _: progress(begins[role] + done, total),
    )  # fmt: skip
    print_data(console, report)
    if report.space is not None:
        print_cost(console, plan, report.space.num_classes)
    return report.ok


# -- the data ----------------------------------------------------------------------------------------------------------


def print_data(console: Console, report: CheckReport) -> None:
    """Counts, sizes, classes, and the problems with their remedies."""
    sides = Table("", "data set", "images", "sizes", title="Data", title_justify="left")
    for side in report.sides:
        sides.add_row(side.role, Text(printable(side.reference)), str(side.images), _sizes(side.sizes))
    console.print(sides)
    if report.space is not None:
        console.print(printable(report.sentence), markup=False, soft_wrap=True)
        measured = [(side.role, side.shares) for side in report.sides if side.shares is not None]
        classes = Table("class", *(role for role, _ in measured), title="Share of the pixels, %", title_justify="left")
        for place, name in enumerate(report.space.classes):
            shares = (shares[place] for _, shares in measured if shares)
            classes.add_row(Text(name), *(_share(share) for share in shares))
        console.print(classes)
    if not report.problems:
        console.print("No problem found.")
    for problem in report.problems:
        color = "red" if problem.severity == "error" else "yellow"
        console.print(Text.assemble((problem.severity, f"bold {color}"), " ", printable(problem)), soft_wrap=True)


def _sizes(sizes: dict[str, int]) -> str:
    """The most frequent sizes."""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    said = [f"{size} ({count})" if len(ordered) > 1 else size for size, count in ordered[:3]]
    return ", ".join(said) + (f" and {len(ordered) - 3} others" if len(ordered) > 3 else "")


def _share(share: float) -> str:
    return "absent" if share == 0 else f"{100 * share:.2f}"


# -- the cost ----------------------------------------------------------------------------------------------------------


def print_cost(console: Console, recipe: Recipe, classes: int) -> None:
    """Memory and time of every stage, from one timed pass on random images."""
    costs: dict[str, Cost] = {}
    try:
        for stage in recipe.stages.values():
            model = stage.model or recipe.model
            if model.name not in costs:
                costs[model.name] = measure(recipe, classes, model)
    except (SegRefineryError, RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        console.print(
            f"Time and memory are not known: a pass of the network failed ({printable(reason)}).", markup=False
        )
        return
    table = Table(
        "stage",
        "steps",
        "a step",
        "time",
        "memory",
        title=Text(printable(f"Cost of {recipe.name}")),
        title_justify="left",
    )
    total = 0.0
    for name, stage in recipe.stages.items():
        cost = costs[(stage.model or recipe.model).name]
        steps, seconds = stage.steps * stage.repeats, step_seconds(cost, stage, recipe)
        total += steps * seconds
        memory = size(step_bytes(cost, stage, recipe))
        table.add_row(Text(name), f"{steps:,}", duration(seconds), duration(steps * seconds), memory)
    table.add_row("all", "", "", duration(total), "", style="bold")
    console.print(table)
    cost = next(iter(costs.values()))
    images, height, width = cost.timed
    where = torch.cuda.get_device_name() if cost.device.type == "cuda" else threads(torch.get_num_threads())
    full = (micro_batch(recipe), *recipe.data.crop) == cost.timed
    console.print(
        f"Estimated from one forward and backward pass of {images} x {height} x {width} pixels on {where}"
        f"{'' if full else ', scaled to the batch and crop of the recipe'}; reading images, what refiners add, passes "
        "over the data and evaluation come on top.",
        soft_wrap=True,
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
    seconds, activations = timed_pass(network, timed, classes, device, bf16)
    if timed != whole and seconds * _pixels(whole) / _pixels(timed) <= PATIENCE:
        timed = whole
        seconds, activations = timed_pass(network, timed, classes, device, bf16)
    elif seconds <= PATIENCE:  # the first pass also pays for what happens once
        seconds, activations = timed_pass(network, timed, classes, device, bf16)
    factor = _pixels(whole) / _pixels(timed)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    batch = factor * seconds * recipe.training.accumulate
    return Cost(batch, round(factor * activations), parameters, timed, device)


def timed_pass(
    network: nn.Module, shape: tuple[int, int, int], classes: int, device: torch.device, bf16: bool
) -> tuple[float, int]:
    """Seconds of a forward and backward pass over random images, and the bytes it keeps in between."""
    images, height, width = shape
    image = torch.randn(images, 3, height, width, device=device)
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
        seen = network(image)
        maps = [logits for logits in (seen.logits, seen.aux_logits) if logits is not None]
        losses = [F.cross_entropy(F.interpolate(m.float(), (height, width), mode="bilinear"), label) for m in maps]
        loss = torch.stack(losses).sum()
    loss.backward()
    _wait(device)
    seconds = time.perf_counter() - begin
    network.zero_grad(set_to_none=True)
    return seconds, sum(kept.values())


def step_seconds(cost: Cost, stage: StageSettings, recipe: Recipe) -> float:
    """Time of one optimizer step of a stage."""
    return cost.seconds * stage.passes * _relative_size(stage, recipe)


def step_bytes(cost: Cost, stage: StageSettings, recipe: Recipe) -> float:
    """Memory of a stage: weights, gradients, the optimizer's moments, a teacher, and one micro-batch's activations."""
    copies = 2 + MOMENTS.get(stage.optimizer.name, 2) + (1 if stage.takes_target else 0)
    return 4.0 * copies * cost.parameters + cost.activations * _relative_size(stage, recipe)


def micro_batch(recipe: Recipe) -> int:
    return math.ceil(recipe.data.batch / recipe.training.accumulate)


def duration(seconds: float) -> str:
    """``0.35 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds / 86_400)} days"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def size(amount: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def threads(count: int) -> str:
    return f"{count} processor thread{'' if count == 1 else 's'}"


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
