"""The score that labelled target images estimate though all of them teach: each is scored by a model that did not learn
it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from segrefinery.core.files import whole_file
from segrefinery.data.labelled import parts_in_turn
from segrefinery.engine.events import Listeners, RunEvents
from segrefinery.engine.held_out import HeldOut, keep_estimates
from segrefinery.engine.run import Run
from segrefinery.engine.scorer import Following, Led, Scorer
from segrefinery.engine.tracker import Tracker

FOLDER = "cross_fit"
MODELS = ("source-only", "adapted")


def cross_fit(run: Run, parts: int, window: tuple[int, int] | None, told: RunEvents) -> None:
    """Train the stages that labels teach once for each of so many parts of the labelled images, without that part, and
    score it by what was trained; ``results.json`` gets the estimate of all together. Stages that no label teaches are
    taken from the run itself. What is finished is not done again.

    Args:
        run: which has ended. window: that images are predicted in.
    """
    labels: Any = run.sets.labels
    turns = parts_in_turn(labels, parts, run.seed)
    for number, (taught, held_out) in enumerate(turns, start=1):
        kept = run.folder / FOLDER / f"{number}.npz"
        if run.fabric.broadcast(kept.exists()):
            continue
        folder = kept.with_suffix("")
        main = run.fabric.global_rank == 0
        sets = replace(run.sets, labels=taught)
        scorer = Scorer(run.fabric, replace(sets, held_out=held_out), run.target_data, sets.space.num_classes, window)
        scored = HeldOut(folder, scorer, RunEvents())
        listeners = Listeners(_Part(f"part {number} of {parts}", told), _Scores(scored))
        part = replace(
            run, folder=folder, sets=sets, tracker=Tracker(folder, active=main),
            events=Led(listeners, scorer) if main else Following(scorer), reuse=run.folder,
        )  # fmt: skip
        part.execute()
        part.tracker.close()
        if main:
            counts = {"adapted": scored.counts(scored.last)}
            if scored.source_only is not None:
                counts["source-only"] = scored.counts(scored.source_only)
            with whole_file(kept) as file:
                np.savez_compressed(file, **{name: each.numpy() for name, each in counts.items()})  # pyright: ignore
            shutil.rmtree(folder)
        run.fabric.barrier()
    if run.fabric.global_rank == 0:
        _conclude(run, parts, told)


def _conclude(run: Run, parts: int, told: RunEvents) -> None:
    """Keep and tell what the images of all parts say together."""
    by_model: dict[str, list[torch.Tensor]] = {}
    for number in range(1, parts + 1):
        with np.load(run.folder / FOLDER / f"{number}.npz") as file:
            for name in file.files:
                by_model.setdefault(name, []).append(torch.from_numpy(file[name]))
    counts = {name: torch.cat(by_model[name]) for name in MODELS if name in by_model}
    reference = "source-only" if "source-only" in counts else None
    images = f"labelled images, each held out in one of {parts} parts"
    keep_estimates(run.folder, FOLDER, counts, reference, told, images, run.sets)


class _Scores(RunEvents):
    """Has every stage's model scored, and concludes nothing."""

    def __init__(self, scored: HeldOut) -> None:
        self.ended = scored.ended


class _Part(RunEvents):
    """Tells how far a part is, under its name."""

    def __init__(self, name: str, told: RunEvents) -> None:
        self.name, self.told = name, told

    def progressed(self, what: str, done: int, total: int, losses: object) -> None:
        self.told.progressed(f"{self.name}, {what}", done, total, losses)  # pyright: ignore[reportArgumentType]
