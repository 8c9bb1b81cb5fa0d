"""What a run tells: ``metrics.jsonl`` (the record), TensorBoard and a log line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Tracker:
    """Append-only record of a run, one JSON object a line; truncated to the checkpoint when a run resumes."""

    def __init__(self, folder: Path, active: bool = True, tensorboard: bool = True) -> None:
        self.path = folder / "metrics.jsonl"
        self.active = active
        self._writer = None
        self._board = folder / "tensorboard" if tensorboard else None

    def write(self, stage: str, step: int, kind: str, values: dict[str, Any]) -> None:
        """Add a record: ``kind`` is train, evaluation, trust, verdict, warning, ..."""
        if not self.active:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "step": step, "kind": kind, **values}) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if self._board is not None and numbers:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._board))
            for name, value in numbers.items():
                self._writer.add_scalar(f"{stage}/{kind}/{name}", value, step)

    def rewind(self, stages: set[str], stage: str, step: int) -> None:
        """Forget what was recorded after the checkpoint: keep the finished ``stages`` and ``stage`` up to ``step``."""
        if not self.active or not self.path.exists():
            return
        kept = [
            line
            for line, record in records(self.path)
            if record["stage"] in stages or (record["stage"] == stage and record["step"] <= step)
        ]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a record and what they hold; a line cut short by a crash is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append((line, json.loads(line)))
        except json.JSONDecodeError:
            continue
    return found
