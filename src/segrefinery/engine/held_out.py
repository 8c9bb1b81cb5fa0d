"""Scores a run's models on labelled target images that taught nothing: an estimate with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segrefinery.core.files import whole_file
from segrefinery.engine.events import RunEvents, StageEnd
from segrefinery.engine.feed import RunData
from segrefinery.engine.scorer import HELD_OUT, Scorer
from segrefinery.evaluation.estimate import Scored, estimates
from segrefinery.evaluation.results import read_counts, read_results, write_results


class HeldOut(RunEvents):
    """Keeps each image's counts as ``held_out/STAGE.npz`` and what they say of the models in ``results.json``."""

    def __init__(self, folder: Path, scorer: Scorer, told: RunEvents) -> None:
        """``told``: whom to tell."""
        self.folder, self.scorer, self.told = folder, scorer, told
        self.source_only: str | None = None
        self.last: str | None = None

    def ended(self, end: StageEnd) -> None:
        path = self.path(end.name)
        if not path.exists():
            told = lambda done, total: self.told.progressed(f"{end.name}: held-out images", done, total, {})  # noqa: E731
            evaluation = self.scorer.evaluate(end.predictor, HELD_OUT, told)
            with whole_file(path) as file:
                np.savez_compressed(file, per_image=evaluation.per_image.numpy())
        if end.source_only:
            self.source_only = end.name
        self.last = end.name

    def concluded(self) -> None:
        """Scored the last model and source-only on the same draws of images, and keep it."""
        assert self.last is not None
        last = read_results(self.folder).get("chosen", self.last)
        names = dict.fromkeys(name for name in (self.source_only, last) if name is not None)
        counts = {name: self.counts(name) for name in names}
        sets = self.scorer.sets
        keep_estimates(self.folder, "held_out", counts, self.source_only, self.told, "labelled images held out", sets)

    def counts(self, stage: str | None) -> Tensor:
        """N x C x C of a stage's model."""
        assert stage is not None
        return read_counts(self.path(stage))

    def path(self, stage: str) -> Path:
        return self.folder / "held_out" / f"{stage}.npz"


def keep_estimates(
    folder: Path, key: str, counts: Mapping[str, Tensor], reference: str | None, told: RunEvents, images: str,
    sets: RunData,
) -> None:  # fmt: skip
    """Add what labelled images say of models to ``results.json`` under ``key``, and tell it.

    Args:
        counts: N x C x C of each model. reference: that the others are compared with. images: what they are, in words.
        sets: of the run; classes that its labels cannot show have no part in the mean.
    """
    count = len(next(iter(counts.values())))
    left_out = [sets.space.classes.index(name) for name in sets.untold]
    scored = estimates(counts, [1.0] * count, [0] * count, reference, left_out)
    results = read_results(folder)
    results[key] = {"images": count, "models": [plain(one) for one in scored]}
    write_results(folder, results)
    for one in scored:
        told.said(f"{one.name}: {sentence(one)} on {count} {images}")


def plain(one: Scored) -> dict[str, Any]:
    """As JSON reads it back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(one).items()}


def sentence(one: Scored) -> str:
    """``41.2 mIoU (95 % interval 36.0 to 45.1)``."""
    low, high = one.interval
    return f"{100 * one.miou:.1f} mIoU (95 % interval {100 * low:.1f} to {100 * high:.1f})"
