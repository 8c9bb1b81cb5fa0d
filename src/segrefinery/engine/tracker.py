"""What a run tells: ``metrics.jsonl`` (the record), TensorBoard and a log line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segrefinery.core.files import cannot_write, unreadable, write_text


class Tracker:
    """Append-only record of a run, one JSON object a line; truncated to the checkpoint when a run resumes, and what is
    in it already is not written again."""

    def __init__(
        self,
        folder: Path,
        active: bool = True,
        tensorboard: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``active``: whether this process records. ``say``: told of warnings and notes in a line."""
        self.path = folder / "metrics.jsonl"
        self.active, self.say = active, say
        self._board = folder / "tensorboard" if tensorboard else None
        self._writers: dict[str, Any] = {}
        self._resumed: dict[str, int] = {}
        self._before: set[str] = set()
        if active and self.path.exists():
            self._keep([line for line, _ in records(self.path)])

    def write(self, stage: str, step: int, kind: str, values: dict[str, Any]) -> None:
        """Add a record: ``kind`` is train, evaluation, trust, verdict, warning, ..."""
        if not self.active:
            return
        line = json.dumps({"stage": stage, "step": step, "kind": kind, **values})
        if new := line not in self._before:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise cannot_write(self.path, error) from error
        if kind in ("warning", "note"):
            good = values.get("good_checkpoint")
            self.say(
                f"{kind}: {stage}, step {step}: {values['text']}" + (f"; last good checkpoint: {good}" if good else "")
            )
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if self._board is not None and numbers and new:
            if stage not in self._writers:
                from torch.utils.tensorboard import SummaryWriter

                # A folder for each stage: what is purged of one is no step of another.
                purge = self._resumed[stage] + 1 if stage in self._resumed else None
                self._writers[stage] = SummaryWriter(str(self._board / stage), purge_step=purge)
            for name, value in numbers.items():
                self._writers[stage].add_scalar(f"{kind}/{name}", value, step)

    def rewind(self, stages: set[str], stage: str, step: int) -> None:
        """Forget what was recorded after the checkpoint: keep the finished ``stages`` and ``stage`` up to ``step``."""
        if not self.active or not self.path.exists():
            return
        self._resumed[stage] = step
        kept = [
            line
            for line, record in records(self.path)
            if record["stage"] in stages or (record["stage"] == stage and record["step"] <= step)
        ]
        self._keep(kept)

    def _keep(self, lines: list[str]) -> None:
        """Have these lines alone; a run that is resumed may come upon what they say once more."""
        write_text(self.path, "".join(line + "\n" for line in lines))
        self._before = set(lines)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a record and what they hold; a line that a crash cut short or a disk damaged is left out."""
    kept = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("stage"), str) and isinstance(record.get("step"), int):
            kept.append((line, record))
    return kept
