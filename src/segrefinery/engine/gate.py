"""The collapse gate: notices while a run trains that self-training feeds on its own errors, and acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.checkpoints import Checkpoints, load_safely, restore_module
from segrefinery.engine.settings import OnCollapse
from segrefinery.engine.tracker import Tracker
from segrefinery.stages.base import Stage
from segrefinery.stages.watch import WINDOW, LabelWatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRESENT = 0.005
"""A class is there if it has at least this share, of the source labels and of the first pseudo-labels."""
DEAD = 0.02
"""A class is dead if less than this is left of its share."""
LARGEST = 0.9
JUMP = 0.5
DISAGREEMENT = 0.5
"""Agreement of the student with its labels, over the best it has been."""


class Collapse(SegRefineryError):
    """Training was stopped because its labels collapse."""


def suspicions(watch: LabelWatch) -> list[str]:
    """What looks like a collapse, in sentences; empty if nothing does or too few steps were seen."""
    early, late, source = (part.double().cpu() for part in (watch.early, watch.late, watch.source))
    if float(watch.steps) < 2 * WINDOW:
        return []
    reasons = []
    alive = (early >= PRESENT) & (source >= PRESENT)
    dead = int((alive & (late < DEAD * early)).sum())
    if dead >= 2 and dead >= 0.2 * int(alive.sum()):
        reasons.append(f"{dead} of {int(alive.sum())} classes have vanished from the pseudo-labels")
    if float(late.max()) > max(LARGEST, float(early.max()), float(source.max())):
        reasons.append(f"one class fills {100 * float(late.max()):.0f} % of the pseudo-labels")
    if (jump := 0.5 * float((late - early).abs().sum())) > JUMP:
        reasons.append(f"{100 * jump:.0f} % of the pseudo-labels moved to other classes")
    if float(watch.best) > 0.4 and float(watch.agreement) < DISAGREEMENT * float(watch.best):
        reasons.append(
            f"the student agrees with {100 * float(watch.agreement):.0f} % of its labels, "
            f"down from {100 * float(watch.best):.0f} %"
        )
    return reasons


@dataclass
class Gate:
    """Watches one stage. What it decides depends on the stage's buffers alone, so a resumed run decides alike.

    While nothing is suspicious the newest checkpoint is pinned; from the first suspicion on that one stays, whatever
    rotation drops, as ``STAGE.good-STEP.pt``.
    """

    name: str
    stage: Stage
    checkpoints: Checkpoints
    fabric: Fabric
    tracker: Tracker
    action: OnCollapse = "warn"

    @property
    def watch(self) -> LabelWatch | None:
        return self.stage.label_watch

    def resume(self) -> None:
        """Pin what a run that was never interrupted would have pinned."""
        if self.watch is not None:
            self.checkpoints.pin(int(self.watch.last_clean))

    def judge(self, step: int) -> bool:
        """Look at the stage after ``step`` steps -> whether it was rolled back and is to end here.

        Raises:
            Collapse: something is suspicious and the action is ``stop``.
        """
        watch = self.watch
        if watch is None or float(watch.steps) == 0:
            return False
        reasons = self._of_any_rank(suspicions(watch))
        if not reasons:
            if int(watch.suspected) < 0:
                watch.last_clean.fill_(step)
                self.checkpoints.pin(step)
            return False
        if int(watch.suspected) >= 0:
            return False  # told before
        watch.suspected.fill_(step)
        return self._act(step, "; ".join(reasons))

    def not_finite(self, step: int, error: SegRefineryError) -> bool:
        """A loss is not finite -> whether the stage was rolled back and is to end here; else the error stands."""
        if self.action == "rollback" and self.fabric.world_size == 1:
            return self._act(step, str(error).split(". ")[0])
        self.tracker.write(self.name, step, "warning", {"text": str(error), "action": "stop"})
        return False

    def close(self) -> None:
        """At the end of the stage: keep the good checkpoint of a suspicious one under a name of its own."""
        if self.watch is not None and int(self.watch.suspected) >= 0:
            self.checkpoints.set_aside()

    def _act(self, step: int, text: str) -> bool:
        good = self.checkpoints.pinned
        record = {"text": text, "action": self.action, "good_checkpoint": good.name if good else None}
        self.tracker.write(self.name, step, "warning", record)
        if self.action == "stop":
            raise Collapse(
                f"stage {self.name!r}, step {step}: {text}. The last good checkpoint is {good}; lower the learning "
                "rate or raise the threshold of the labels, or continue with training.on_collapse=warn in a new run"
            )
        if self.action == "rollback" and good is not None:
            restore_module(self.stage, load_safely(good)["module"], good)
            return True
        return False

    def _of_any_rank(self, reasons: list[str]) -> list[str]:
        if self.fabric.world_size == 1:
            return reasons
        flag = torch.tensor(float(bool(reasons)), device=self.fabric.device)
        anywhere = self.fabric.all_reduce(flag, reduce_op="sum")
        return reasons or (["another rank's labels look like a collapse"] if float(anywhere) else [])  # pyright: ignore[reportArgumentType]
