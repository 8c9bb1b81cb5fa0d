"""Scores a run's models on labelled images of the target domain, at looks and at the end of every stage."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from segrefinery.data.datasets import parts_of
from segrefinery.engine.events import RunEvents, StageEnd
from segrefinery.engine.scorer import EVALUATION, Scorer
from segrefinery.engine.tracker import Tracker
from segrefinery.evaluation.results import is_evaluated, keep_evaluation, scores_by_set, scores_of
from segrefinery.evaluation.scoring import Evaluation
from segrefinery.labels import LabelSpace


class Evaluator(RunEvents):
    """Evaluates on one data set, and keeps what it finds in ``results.json``, ``evaluation/`` and the record."""

    def __init__(
        self, folder: Path, scorer: Scorer, reference: str, space: LabelSpace, tracker: Tracker, told: RunEvents,
        unscored: Collection[str] = (),
    ) -> None:  # fmt: skip
        """``reference``: what the user calls the images. ``told``: whom to tell of scores and of progress.
        ``unscored``: classes that no label can be, left out of the mean."""
        self.folder, self.scorer, self.reference, self.space = folder, scorer, reference, space
        self.tracker, self.told, self.unscored = tracker, told, unscored

    def looked(self, end: StageEnd, step: int) -> None:
        self._evaluate(end, step, "look")

    def ended(self, end: StageEnd) -> None:
        if is_evaluated(self.folder, end.name):
            return
        scores = self._evaluate(end, end.settings.steps, "evaluation")
        kept = scores_of(scores.total, self.space, self.unscored)
        images: Any = self.scorer.sets.evaluation
        if parts := parts_of(images):
            kept["sets"] = scores_by_set(scores, parts, self.space, self.unscored)
        keep_evaluation(self.folder, end.name, scores, kept, self.space, source_only=end.source_only)
        each = [f"{100 * one['miou']:.1f} on {name}" for name, one in kept.get("sets", {}).items()]
        self.told.said(
            f"{end.name}: {100 * kept['miou']:.1f} mIoU on {self.reference}" + (f" ({', '.join(each)})" if each else "")
        )

    def _evaluate(self, end: StageEnd, step: int, kind: str) -> Evaluation:
        told = lambda done, total: self.told.progressed(f"{end.name}: evaluation images", done, total, {})  # noqa: E731
        scores = self.scorer.evaluate(end.predictor, EVALUATION, told)
        record = scores_of(scores.total, self.space, self.unscored)
        self.tracker.write(end.name, step, kind, {name: record[name] for name in ("miou", "pixel_accuracy")})
        return scores
