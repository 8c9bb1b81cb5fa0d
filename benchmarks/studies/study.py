"""Recipes x tasks x seeds, side by side.

    python benchmarks/studies/study.py run benchmarks/studies/baseline.yaml --jobs 2
    python benchmarks/studies/study.py table benchmarks/studies/baseline.yaml
    python benchmarks/studies/study.py table benchmarks/studies/baseline.yaml --against oracle     # printed, not kept

A study file names the scale, the tasks (data sets), the seeds, the rows (a recipe and what is set on it) and the row
the others are compared with. A row may start ``from: ROW``, from what that row trained for the same task and seed, do
``without: [source]``, and be taught by ``labels: {count: 20, by: ROW}``: images of the task's ``oracle`` that an audit
of that row's run picks, or ``by: random``. ``against: ROW`` compares it with one more row, a baseline of its own. Those
rows stand above it.

A finished cell is never run again; a crashed one says why while the rest go on; stages that two cells have in common
are trained once. Results lie in ``benchmarks/results/``: ``STUDY.jsonl`` (a line a cell), ``counts/`` (the confusion
counts of every test image, for the intervals) and ``STUDY.md`` (the table). Exit code 1: a cell failed; 2: the study
file has a mistake, nothing ran.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.command import one_line_errors
from lib.intervals import iou_of, per_image
from lib.picked import Labels
from lib.results import CELLS, RESULTS, Place, keep_counts, keep_line, read_counts, read_lines
from lib.study_file import RANDOM, read_checked
from lib.study_table import table
from segrefinery.core.errors import SegRefineryError
from segrefinery.recipe import load_recipe

CAME_LATER = {
    ("weights", "mean_over"): "all",
    ("model", "bands"): 3,
    ("training", "cross_fit"): 0,
    ("refinement_network", "largest_balance"): 10.0,
    ("refinement_network", "noise_threshold"): 0.5,
    ("optimizer", "refiner_factor"): 10.0,
    ("optimizer", "bias_factor"): 1.0,
    ("discriminator_optimizer", "refiner_factor"): 10.0,
    ("discriminator_optimizer", "bias_factor"): 1.0,
}
"""Settings that older cells could not have, wherever they stand in a recipe, and what held for them: they need not be
run anew for its sake."""


@dataclass
class Cell:
    """One run of one recipe on one task with one seed."""

    study: str
    task: str
    row: str
    seed: int
    recipe: str
    scale: str
    sets: dict[str, str]
    overrides: list[str] = field(default_factory=list)
    start: Cell | None = None
    labels: Labels | None = None
    against: str | None = None

    @cached_property
    def key(self) -> str:
        """Changes with whatever determines the cell but its seed, the recipe's contents among it, so that a cell whose
        settings are no longer those of today is run anew. What a recipe does not set (null) does not count, nor does a
        setting of ``CAME_LATER`` with the value that was in force before it could be set."""
        recipe = load_recipe(self.recipe, self.scale, self.overrides)
        settings = recipe.model_dump(mode="json", exclude={"about"}, exclude_none=True)
        told: list[Any] = [without_later(settings), self.sets]
        if self.start is not None:
            told.append(["from", self.start.key])
        if self.labels is not None:
            told.append(["labels", self.labels.key])
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()

    @property
    def bases(self) -> list[Cell]:
        """The cells whose runs it needs."""
        return [cell for cell in (self.start, self.labels and self.labels.by) if cell is not None]

    @property
    def name(self) -> str:
        """The same in every study that asks for the same cell."""
        return f"{self.task}/{self.recipe.replace('/', '_')}-{self.key}/seed{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return CELLS / self.name

    @property
    def counts_file(self) -> Path:
        """The confusion counts of its model on every test image, kept with the results."""
        return RESULTS / "counts" / f"{self.name}.npz"

    def counts(self) -> np.ndarray | None:
        """N x C x C, or None if they were not kept."""
        return read_counts(self.counts_file)

    @property
    def place(self) -> Place:
        return self.task, self.row, self.seed

    @property
    def results(self) -> Path:
        """The file with the results of the whole study."""
        return RESULTS / f"{self.study}.jsonl"

    def kept(self) -> dict[str, Any] | None:
        """What came of the cell when it was last run, with whatever settings."""
        return read_lines(self.results).get(self.place)

    def done(self) -> dict[str, Any] | None:
        """The cell's result, if it was run with the settings of today."""
        found = self.kept()
        return found if found and "error" not in found and found["key"] == self.key else None

    def command(self) -> list[str]:
        options = [f"--{name}={value}" for name, value in self.sets.items()]
        options += [f"--set={override}" for override in self.overrides]
        if self.start is not None:
            options.append(f"--from={self.start.folder}")
        if self.labels is not None:
            options.append(f"--labels={self.labels.written(CELLS, self.seed)}")
        return [
            sys.executable, "-m", "segrefinery", "adapt", f"--recipe={self.recipe}", f"--scale={self.scale}",
            f"--seed={self.seed}", f"--output={self.folder}", f"--reuse={CELLS / 'stages'}", "--resume", *options,
        ]  # fmt: skip


def without_later(settings: Any) -> Any:
    """Settings of a recipe without those of ``CAME_LATER`` that are what held before."""
    if isinstance(settings, list):
        return [without_later(part) for part in settings]
    if not isinstance(settings, dict):
        return settings
    kept = {part: without_later(value) for part, value in settings.items()}
    for (part, name), before in CAME_LATER.items():
        inner = kept.get(part)
        if isinstance(inner, dict) and inner.get(name) == before:
            del inner[name]
    return kept


def read_study(path: Path) -> tuple[dict[str, Any], list[Cell]]:
    """The study file and its cells: all rows with the first seed, then with the next, so that a first picture of the
    whole comes early; a row before those that share its stages. A mistake in the file is a ``SegRefineryError``."""
    study = read_checked(path)
    cells: list[Cell] = []
    known: dict[Place, Cell] = {}
    for row, options in study["rows"].items():
        options = options or {}
        recipe = options.get("recipe", row)
        for task, sets in study["tasks"].items():
            if task not in options.get("tasks", study["tasks"]):
                continue
            named = {key: value for key, value in sets.items() if key != "oracle" or recipe.startswith("oracle")}
            named = {{"evaluation": "eval"}.get(key, key): value for key, value in named.items()}
            for seed in options.get("seeds", sets.get("seeds", study["seeds"])):
                named.pop("seeds", None)
                overrides = [*study.get("set", []), *options.get("set", [])]
                used = {key: value for key, value in named.items() if key not in options.get("without", ())}
                cell = Cell(path.stem, task, row, seed, recipe, study.get("scale", "small"), used, overrides)
                cell.against = options.get("against")
                if "from" in options:
                    cell.start = base_of(known, cell, options["from"])
                if "labels" in options:
                    count, by = options["labels"]["count"], options["labels"]["by"]
                    audited = None if by == RANDOM else base_of(known, cell, by)
                    cell.labels = Labels(task, sets["oracle"], sets["target"], count, audited)
                known[cell.place] = cell
                cells.append(cell)
    seeds = study["seeds"]
    return study, sorted(cells, key=lambda cell: seeds.index(cell.seed) if cell.seed in seeds else len(seeds))


def base_of(known: dict[Place, Cell], cell: Cell, row: str) -> Cell:
    """The cell of another row, of the same task and seed."""
    found = known.get((cell.task, row, cell.seed))
    if found is None:
        raise SegRefineryError(
            f"row {cell.row!r}: row {row!r}, which it needs, has no seed {cell.seed} of task {cell.task!r}"
        )
    return found


def next_ready(waiting: deque[Cell], running: list[Cell]) -> Cell | None:
    """The first cell that waits for no other; taken out."""
    busy = {cell.folder for cell in (*waiting, *running)}
    for cell in waiting:
        if not any(base.folder in busy for base in cell.bases):
            waiting.remove(cell)
            return cell
    return None


def run(cells: list[Cell], jobs: int, threads: int | None = None) -> int:
    """Run what is not done yet, ``jobs`` at a time, each with its share of the cores or with ``threads``; returns how
    many failed."""
    waiting = deque(cell for cell in cells if cell.done() is None)
    print(f"{len(cells) - len(waiting)} cells done, {len(waiting)} to run", flush=True)
    total, threads = len(waiting), threads or max(1, (os.cpu_count() or 1) // jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["PYTHONUNBUFFERED"] = "1"  # so that a log's last line is what was said last
    lock = threading.Condition()
    failed: list[Cell] = []
    running: list[Cell] = []

    def work() -> None:
        while True:
            with lock:
                cell = next_ready(waiting, running)
                while waiting and cell is None:
                    lock.wait()
                    cell = next_ready(waiting, running)
                if cell is None:
                    return
                number = total - len(waiting)
                running.append(cell)
            found = attempt(cell, environment)
            with lock:
                running.remove(cell)
                lock.notify_all()
            if "error" in found:
                failed.append(cell)
            text = f"FAILED: {found['error']}" if "error" in found else f"{100 * found['miou']:.1f} mIoU"
            print(
                f"[{number}/{total}] {cell.task} {cell.row} seed {cell.seed}: {text} in {found['seconds']:.0f} s",
                flush=True,
            )

    workers = [threading.Thread(target=work) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(failed)


def attempt(cell: Cell, environment: dict[str, str]) -> dict[str, Any]:
    """Run one cell; whatever goes wrong is kept as its error, for an exception would end the worker and with it the
    cells that wait."""
    began = time.perf_counter()
    try:
        return run_cell(cell, environment)
    except Exception as error:
        found = {
            "recipe": cell.recipe, "set": cell.overrides, "seed": cell.seed,
            "seconds": round(time.perf_counter() - began, 1), "error": phrase(f"{type(error).__name__}: {error}"),
        }  # fmt: skip
        with suppress(OSError):  # a full disk, say: it is printed all the same
            keep(cell, found)
        return found


def run_cell(cell: Cell, environment: dict[str, str]) -> dict[str, Any]:
    """Run one cell in a process of its own and keep what came of it."""
    kept = cell.folder / "cell.json"
    if kept.exists():  # another study asked for the same cell
        found = json.loads(kept.read_text())
        if not cell.counts_file.exists():
            keep_counts(cell.counts_file, per_image(cell.folder, found["stage"]))
        return keep(cell, found)
    for base in cell.bases:
        if base.done() is None:
            raise SegRefineryError(f"row {base.row!r}, which it needs, is not finished")
    cell.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with open(cell.folder.parent / f"seed{cell.seed}.log", "w") as log:
        process = subprocess.Popen(cell.command(), stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found: dict[str, Any] = {
        "key": cell.key, "recipe": cell.recipe, "set": cell.overrides, "seed": cell.seed,
        "seconds": round(time.perf_counter() - began, 1), "peak_mib": round(usage.ru_maxrss / 1024),
    }  # fmt: skip
    results = cell.folder / "results.json"
    if process.returncode == 0 and results.exists():
        final = json.loads(results.read_text())
        scores = final.get("adapted") or final["source_only"]
        found |= {key: scores[key] for key in ("stage", "miou", "iou", "pixel_accuracy")}
        found["stages"] = {stage: ended["miou"] for stage, ended in final["stages"].items()}
        found["step_ms"] = step_ms(cell.folder)
        found["rare_third"] = rare_third(cell.folder, scores)
        if "verdict" in final:
            said = final["verdict"]
            found["verdict"], found["trust_gain"] = said["word"], round(said["difference"], 4)
            found["reasons"] = said["reasons"]
        if final.get("adapted") and final.get("source_only"):
            found["before"] = final["source_only"]["miou"]
        keep_counts(cell.counts_file, per_image(cell.folder, scores["stage"]))
        kept.write_text(json.dumps(found))
    else:
        found["error"] = last_words(process.returncode, Path(log.name))
    return keep(cell, found)


def last_words(exit_code: int, log: Path) -> str:
    """Why a process left no results. Only one that failed by itself has said so in the last line of its log."""
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    if exit_code == 0:
        return "ended without results.json"
    lines = log.read_text(errors="replace").strip().splitlines()
    return phrase(lines[-1]) if lines else f"exit code {exit_code}"


def phrase(text: str) -> str:
    """Short and on one line, as the table needs it."""
    return " ".join(text.split())[:200]


def keep(cell: Cell, found: dict[str, Any]) -> dict[str, Any]:
    """Write a cell's result where the tables look for it."""
    keep_line(cell.results, dict(zip(("task", "row", "seed"), cell.place, strict=True)) | found)
    return found


def step_ms(folder: Path) -> float | None:
    """Median milliseconds a step of the last stage, on as many cores as the cell had."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    if not trained:
        return None
    of_last = [record for record in trained if record["stage"] == trained[-1]["stage"]]
    last = [record["seconds_per_step"] for record in of_last if "seconds_per_step" in record]
    return round(1000 * float(np.median(last)), 1)


def rare_third(folder: Path, scores: dict[str, Any]) -> float:
    """Mean IoU of the third of the classes that have the fewest reference pixels in the evaluation set."""
    counts = per_image(folder, scores["stage"]).sum(0)
    pixels, iou = counts.sum(1), iou_of(counts)
    present = np.flatnonzero(pixels > 0)
    rarest = present[np.argsort(pixels[present], kind="stable")][: max(1, len(present) // 3)]
    return float(np.nanmean(iou[rarest]))


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("study", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side")
    parser.add_argument("--threads", type=int, help="of each cell; by default its share of the cores")
    parser.add_argument("--only", default="", help="only cells whose 'TASK ROW seed N' contains this")
    parser.add_argument("--against", help="with table: print it with another row to compare with")
    arguments = parser.parse_args()
    study, cells = read_study(arguments.study)
    if arguments.against is not None:
        if arguments.action == "run":
            parser.error("--against goes with table")
        if arguments.against not in study["rows"]:
            parser.error(f"--against {arguments.against!r} is no row of the study: {', '.join(study['rows'])}")
        print(table({**study, "baseline": arguments.against}, cells))
        return
    failed = 0
    if arguments.action == "run":
        chosen = [cell for cell in cells if arguments.only in f"{cell.task} {cell.row} seed {cell.seed}"]
        failed = run(chosen, arguments.jobs, arguments.threads)
    text = table(study, cells)
    path = RESULTS / f"{arguments.study.stem}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(text)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    one_line_errors(command)
