"""Where the time of a training step goes that its networks do not take. Prints Markdown.

    python benchmarks/cost/step_pieces.py
    python benchmarks/cost/step_pieces.py --case tiny --recipes self_training --steps 1

Of each recipe one process, scale small's network, crop and batch; batches are loaded before. Each piece is timed by
itself, without the pieces inside it; medians over steps, as shares of the step. "Networks" are the passes of student
and teacher and the backward pass, "losses" those over the pixels of enlarged maps, with the gradient that they compute
at once, "refiners" what they say, learn and remember, without their losses over pixels, "labels" the choice and
mixing of labels, "rest" everything else (clipping, gathering numbers, refiners' own optimizers).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from step_overhead import CASES, RECIPES

from lib.machine import machine
from lib.passes import networks
from lib.training import Training
from segrefinery import losses
from segrefinery.core.processor import keep_freed_memory
from segrefinery.refine import base
from segrefinery.stages import self_training

PIECES = ("networks", "losses", "refiners", "labels", "strong view", "average", "optimizer", "rest")


class Clock:
    """Seconds a piece, each without those of the pieces that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inside = ["rest"]
        self.since = time.perf_counter()

    def enter(self, piece: str) -> None:
        self.tick()
        self.inside.append(piece)

    def leave(self) -> None:
        self.tick()
        self.inside.pop()

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    def watch(self, piece: str, owner: Any, name: str) -> None:
        """Time ``owner.name`` as this piece from now on."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(piece)
            try:
                return inner(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, timed)


def watched(training: Training) -> Clock:
    """A clock on the pieces of the step of a self-training stage."""
    clock, stage = Clock(), training.stage
    assert isinstance(stage, self_training.SelfTraining)
    for network in networks(stage).values():
        clock.watch("networks", network, "forward")
    clock.watch("networks", torch.Tensor, "backward")
    clock.watch("losses", losses, "mean_over_pixels")
    for refiner in stage.chain:
        for part in ("forward", "losses", "remember", "after_step"):
            clock.watch("refiners", refiner, part)
    clock.watch("labels", stage, "mix")
    clock.watch("labels", stage.watch, "see")
    clock.watch("labels", base.PseudoLabels, "from_view")
    clock.watch("strong view", stage, "strong")
    clock.watch("average", stage.teacher, "update")
    for one in training.trained.values():
        clock.watch("optimizer", one.optimizer, "step")
    return clock


def measure(case: str, recipe: str, steps: int) -> dict[str, float]:
    """Milliseconds a piece, and of the step."""
    training = CASES[case].training(recipe)
    for _ in range(2):
        training.step()
    clock, each = watched(training), []
    for _ in range(steps):
        clock.tick()
        clock.seconds.clear()
        training.step()
        clock.tick()
        each.append(dict(clock.seconds) | {"step": sum(clock.seconds.values())})
    return {piece: 1e3 * median(one.get(piece, 0.0) for one in each) for piece in (*PIECES, "step")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="lite0")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.case, options.recipes, options.steps)))
        return
    print(f"{machine()}; {CASES[options.case].network}, 19 classes, float32, medians\n")
    print(f"| recipe | step ms | {' | '.join(f'{piece} %' for piece in PIECES)} |")
    print("|---|---:" + "|---:" * len(PIECES) + "|")
    for recipe in options.recipes.split(","):
        given = [f"--case={options.case}", f"--recipes={recipe}", f"--steps={options.steps}", "--one"]
        command = [sys.executable, __file__, *given, f"--threads={options.threads}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        shares = " | ".join(f"{100 * row[piece] / row['step']:.1f}" for piece in PIECES)
        print(f"| {recipe} | {row['step']:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
