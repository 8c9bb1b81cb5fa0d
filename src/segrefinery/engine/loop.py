"""The one training loop. Everything that changes while it runs is in the stage and its optimizers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError, explained_if_out_of_memory
from segrefinery.core.randomness import generator, seed_of
from segrefinery.engine.checkpoints import Checkpoints
from segrefinery.engine.gate import Gate
from segrefinery.engine.gradients import GradientAverage
from segrefinery.engine.ranks import average_state, gather_numbers, share_memories
from segrefinery.engine.settings import OnCollapse
from segrefinery.engine.tracker import Tracker
from segrefinery.stages.base import Stage, StepBatch
from segrefinery.stages.optimizers import ScheduledOptimizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TO_NEED_LESS = (
    "start a new run with a smaller stages.STAGE.batch or stages.STAGE.crop for this stage; --reuse with the folder of "
    "this run then takes over the stages it finished. Or change all stages: training.accumulate=2 (the batch in two "
    "parts, the same gradient), training.precision=bf16-mixed, data.crop. `segrefinery check` estimates a step's memory"
)

Streams = tuple[Any, Any, Any]
"""A source batch, a target batch, and one of labelled target images; each may be None."""


@dataclass
class LoopSettings:
    """How long, how often.

    Attributes:
        steps: optimizer steps.
        seed: of everything random.
        clip_norm: largest norm of all gradients together, or None.
        accumulate: micro-batches a step.
        checkpoint_every, log_every, look_every: in steps; ``look`` (evaluation, label-free scores) never if 0.
        look_first: also before the first step.
        on_collapse: what the gate does on suspicion; it looks at the stage every ``log_every`` steps.
    """

    steps: int
    seed: int = 0
    clip_norm: float | None = None
    accumulate: int = 1
    checkpoint_every: int = 500
    log_every: int = 20
    look_every: int = 0
    on_collapse: OnCollapse = "warn"
    look_first: bool = False


class NonFiniteLoss(SegRefineryError):
    """A loss became NaN or infinite; the last good checkpoint is kept."""


def train(
    fabric: Fabric,
    name: str,
    stage: Stage,
    settings: LoopSettings,
    batches: Callable[[int], Iterator[Streams]],
    checkpoints: Checkpoints,
    tracker: Tracker,
    progressed: Callable[[int, int, dict[str, float]], None],
    look: Callable[[int], None],
) -> None:
    """Train a stage to its end, from its newest checkpoint if it has one.

    Args:
        batches: called with the first step's number; yields this rank's share of each step's global batch.
        progressed: told after every step of the steps done, the steps in all and the losses.
        look: called with the number of finished steps, as ``settings`` say; it changes nothing.

    Raises:
        NonFiniteLoss: names the loss and the step.
        OutOfMemory: names the step and what would need less.
        Collapse: the gate is told to stop, and does.
    """
    stage.to(fabric.device).train()
    trained = stage.optimizers()
    if not checkpoints.paths():
        checkpoints.save(0, stage, trained)  # what ``prepare`` found is never computed twice
    fabric.barrier()
    first = checkpoints.restore(stage, trained)
    gate = Gate(name, stage, checkpoints, fabric, tracker, settings.on_collapse)
    gate.resume()
    average = GradientAverage(fabric, stage, trained)
    if settings.look_first and first == 0:
        look_at(stage, look, 0)
    clock = time.perf_counter()
    for done, streams in enumerate(batches(first), first + 1):
        try:
            with explained_if_out_of_memory(f"stage {name!r}, step {done - 1}", TO_NEED_LESS):
                losses = one_step(fabric, name, stage, trained, settings, done - 1, streams, average)
        except NonFiniteLoss as error:
            if gate.not_finite(done, error):
                break
            raise
        progressed(done, settings.steps, losses)
        if done % settings.log_every == 0 or done == settings.steps:
            seconds = (time.perf_counter() - clock) / ((done - 1) % settings.log_every + 1)
            clock = time.perf_counter()
            tracker.write(name, done, "train", {**losses, **stage.numbers(), "seconds_per_step": round(seconds, 4)})
            if gate.judge(done):
                break
        if settings.look_every and done % settings.look_every == 0 and done < settings.steps:
            look_at(stage, look, done)
            clock = time.perf_counter()
        if done % settings.checkpoint_every == 0 and done < settings.steps:
            share_memories(fabric, stage)
            checkpoints.save(done, stage, trained)
            fabric.barrier()
    average.close()
    gate.close()
    stage.eval()


def look_at(stage: Stage, look: Callable[[int], None], done: int) -> None:
    """A look at a stage in training, as it is in evaluation."""
    stage.eval()
    look(done)
    stage.train()


def one_step(
    fabric: Fabric,
    name: str,
    stage: Stage,
    trained: dict[str, ScheduledOptimizer],
    settings: LoopSettings,
    number: int,
    streams: Streams,
    average: GradientAverage,
) -> dict[str, float]:
    """Forward, backward, optimizer step, and the stage's own updates -> the losses as numbers."""
    # Every step's randomness is a function of its number, so there is no random state to save.
    torch.manual_seed(seed_of(settings.seed, name, number, fabric.global_rank))
    for item in trained.values():
        item.optimizer.zero_grad(set_to_none=True)
        for group in item.optimizer.param_groups:
            group["lr"] = group["base_lr"] * item.rate(number)
    values: dict[str, Tensor] = {}
    for batch in micro_batches(fabric, name, settings, number, streams):
        terms = stage.step(batch)
        while True:
            with fabric.autocast():
                losses = next(terms, None)
            if losses is None:
                break
            if not losses:  # every weight is 0
                continue
            (torch.stack([loss.float() for loss in losses.values()]).sum() / settings.accumulate).backward()
            for key, loss in losses.items():
                values[key] = values.get(key, 0.0) + loss.detach().float() / settings.accumulate
    if not values:
        raise SegRefineryError(
            f"stage {name!r}, step {number}: there is no loss to train on, for every weight is 0; set one above 0 "
            f"(stages.{name}.weights, source_weight, target_weight)"
        )
    numbers, told = gather_numbers(fabric, values, average.told())  # the one time that a step waits for its device
    average.finish(told)
    if not all(map(math.isfinite, numbers.values())):
        raise NonFiniteLoss(describe_non_finite(name, number, numbers))
    parameters = [
        parameter for item in trained.values() for group in item.optimizer.param_groups for parameter in group["params"]
    ]
    if settings.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    for item in trained.values():
        item.optimizer.step()
    with torch.no_grad():
        stage.after_step(batch)
    average_state(fabric, stage)
    return numbers


def micro_batches(
    fabric: Fabric, name: str, settings: LoopSettings, number: int, streams: Streams
) -> Iterator[StepBatch]:
    """A rank's share of a step, in ``accumulate`` parts; each sample keeps the generator of its place in the whole."""
    source, target, labeled = (None if part is None else part.to(fabric.device) for part in streams)
    size = len(source if source is not None else target)  # pyright: ignore[reportArgumentType]
    for turn in range(settings.accumulate):
        part = nth_part(size, turn, settings.accumulate)
        taught = labeled and labeled[nth_part(len(labeled), turn, settings.accumulate)]
        places = range(fabric.global_rank * size + part.start, fabric.global_rank * size + part.stop)
        random = [generator(settings.seed, name, "sample", number, place) for place in places]
        yield StepBatch(number, source and source[part], target and target[part], random, taught)


def nth_part(images: int, turn: int, parts: int) -> slice:
    """One of the equal parts of a batch."""
    if images % parts:
        raise SegRefineryError(f"a batch of {images} images does not divide into accumulate: {parts} parts")
    return slice(turn * images // parts, (turn + 1) * images // parts)


def describe_non_finite(name: str, number: int, losses: dict[str, float]) -> str:
    bad = [key for key, loss in losses.items() if not math.isfinite(loss)]
    return (
        f"stage {name!r}, step {number}: the loss {', '.join(bad)} is not finite. The last good checkpoint is "
        "kept. Start a new run with a lower rate (--set stages.STAGE.optimizer.lr=...), a smaller "
        "training.clip_norm or training.precision=32-true; --reuse with the folder of this one takes over the stages "
        "that it finished with the same settings"
    )
