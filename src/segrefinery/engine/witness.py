"""What a run learns about itself without labels: a look at every stage end, the verdict, and the model it ships."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from segrefinery.core.files import whole_file
from segrefinery.data.scan import class_pixel_counts
from segrefinery.engine.events import RunEvents, StageEnd, prepared_name
from segrefinery.engine.scorer import Scorer
from segrefinery.engine.tracker import Tracker
from segrefinery.evaluation.results import read_results, write_results
from segrefinery.evaluation.trust.collect import Observation
from segrefinery.evaluation.trust.verdict import Verdict, expected_classes, single_scores, trust, verdict


class Witness(RunEvents):
    """Looks at the models of one run on its target images, always the same ones.

    Attributes:
        observations: stage -> what its model said, in order; kept as ``trust/STAGE.npz`` in the run folder.
        steps: stage -> its length. source_only: the last stage that has seen nothing but the source, or None.
        chosen: the stage whose model is shipped, once that is concluded.
        taught: whether labels of the target took part in training.
    """

    def __init__(
        self, folder: Path, scorer: Scorer, tracker: Tracker, told: RunEvents, choose: Literal["last", "score"] = "last"
    ) -> None:
        """``scorer``: looks at the target, and has the labelled images of the source, whose class shares the verdict
        counts in; without them those that the start model predicts stand alone. ``told``: whom to tell. ``choose``:
        which model the run ships (``training.choose``)."""
        self.folder, self.scorer, self.source = folder, scorer, scorer.sets.source
        self.tracker, self.told, self.choose = tracker, told, choose
        self.taught = scorer.sets.labels is not None
        self.observations: dict[str, Observation] = {}
        self.steps: dict[str, int] = {}
        self.source_only: str | None = None
        self.chosen: str | None = None

    def looked(self, end: StageEnd, step: int) -> None:
        """Record the scores of a model in training."""
        self._record(end.name, step, self._look(end))

    def ended(self, end: StageEnd) -> None:
        """Look at the result of a stage, or recall the look; also that at what the stage began with, which a run that
        is resumed is not told again."""
        before = prepared_name(end.name)
        if before not in self.observations and self.path(before).exists():
            self.observations[before], self.steps[before] = Observation.load(self.path(before)), 0
        self.steps[end.name] = end.settings.steps
        path = self.path(end.name)
        if path.exists():
            self.observations[end.name] = Observation.load(path)
        else:
            self.observations[end.name] = self._look(end)
            self._record(end.name, end.settings.steps, self.observations[end.name])
            self.observations[end.name].save(path)
        if end.source_only:
            self.source_only = end.name

    def path(self, name: str) -> Path:
        return self.folder / "trust" / f"{name}.npz"

    def best(self) -> str:
        """Of the stages whose model is called better than source-only the one with the highest combined score, the
        later of equals; source-only where none is; the last where source-only is missing or there is one image only. A
        last that labels of the target taught is the best unless it is called worse: they say more than the score."""
        last = list(self.observations)[-1]
        if self.source_only is None or len(self.observations[last].names) < 2:
            return last
        reference = self.observations[self.source_only]
        expected = expected_classes(*self.observations.values())
        after = list(self.observations)[list(self.observations).index(self.source_only) + 1 :]
        words = {name: verdict(self.observations[name], reference, self.prior).word for name in reversed(after)}
        if self.taught and words.get(last, "worse") != "worse":
            return last
        values = {
            name: float(trust(self.observations[name], reference, expected))
            for name, word in words.items()
            if word == "better"
        }
        return max(values, key=values.__getitem__, default=self.source_only)

    @cached_property
    def prior(self) -> torch.Tensor | None:
        """C class shares of the source's labels, where there are any."""
        return None if self.source is None else torch.tensor(label_shares(self.source), dtype=torch.float64)

    def concluded(self) -> None:
        """Say the verdict, and which model is in ``model/`` where that is not plain from it."""
        if (verdict := self.conclude()) is None:
            return
        self.told.said(f"verdict: {verdict}")
        if self.choose == "score":
            why = "none is called better" if self.chosen == self.source_only else "it scores highest without labels"
            if self.taught and verdict.word == "no evidence" and self.chosen != self.source_only:
                why = "labels of the target taught it, and it is not called worse"
            self.told.said(f"model/ is that of {self.chosen}: {why}")
        elif verdict.word == "worse":
            self.told.said(
                "model/ is the adapted one all the same, source_model/ the one before; training.choose=score ships "
                "it only where it is called better"
            )

    def conclude(self) -> Verdict | None:
        """Compare the run's model with source-only and keep the verdict; with ``choose: score`` put the chosen model in
        its place. None where there is nothing to compare."""
        adapted = [name for name in self.observations if name != self.source_only]
        if self.source_only is None or not adapted:
            return None
        self.chosen = chosen = self.best() if self.choose == "score" else adapted[-1]
        judged = chosen if chosen in adapted else adapted[-1]
        conclusion = verdict(self.observations[judged], self.observations[self.source_only], self.prior)
        results = read_results(self.folder)
        kept = {"stage": judged, **conclusion.as_dict()}
        if self.choose == "score":
            self._ship(chosen)
            kept["chosen"] = results["chosen"] = chosen
            if chosen in results.get("stages", {}):
                results["adapted"] = results["stages"][chosen] | {"stage": chosen}
        if results.get("verdict") != _plain(kept):
            if self.prior is not None:
                results["source_shares"] = self.prior.tolist()
            results["verdict"] = _plain(kept)
            write_results(self.folder, results)
        self.tracker.write(judged, self.steps[judged], "verdict", _plain(kept))  # a killed process may not have
        return conclusion

    def _ship(self, chosen: str) -> None:
        """Copy the chosen stage's model to ``model/``; every candidate was kept for it."""
        origin = self.folder / ("source_model" if chosen == self.source_only else f"candidates/{chosen}")
        for path in sorted(origin.glob("*")):
            with open(path, "rb") as kept, whole_file(self.folder / "model" / path.name) as shipped:
                shutil.copyfileobj(kept, shipped)

    def _look(self, end: StageEnd) -> Observation:
        return self.scorer.look(end.predictor)

    def _record(self, name: str, step: int, observation: Observation) -> None:
        reference = self.observations.get(self.source_only or "")
        self.tracker.write(name, step, "trust", single_scores(observation, reference))


def label_shares(source: Any) -> list[float]:
    """The share each class has of the labelled pixels of a data set."""
    counts = class_pixel_counts(source).sum(dim=0).double()
    return (counts / counts.sum().clamp(min=1)).tolist()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON reads it back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
