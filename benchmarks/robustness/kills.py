"""Kill a run again and again, resume it, and compare what it ends in with an uninterrupted run. Prints Markdown.

    python benchmarks/robustness/kills.py [--recipe self_training] [--count 24]

The run is a tiny one on scenes, in a process of its own, killed with SIGKILL. Three kinds of moments take turns: a
random one while it trains; one while a checkpoint is being written (its temporary file is there); and a random one
from the process' start on, which may fall into loading, preparing a stage or writing results. A run that ends before
it was killed often enough is followed by another. Exits with 1 where a model differs from the uninterrupted run's in a
single bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine

TINY = (
    "model.options={width: 16, blocks: 1}",
    "data.short_side=32",
    "data.crop=[32, 48]",
    "data.batch=2",
    "target_data.short_side=32",
    "target_data.crop=[32, 48]",
    "training.checkpoint_every=5",
    "training.log_every=5",
)
STEPS = {"self_training": ("stages.source.steps=200", "stages.adapt.steps=500")}
SETS = (
    "--source=scenes:day,count=12,size=32x64",
    "--target=scenes:night,count=12,size=32x64",
    "--eval=scenes:night,count=4,size=32x64@test",
)
MOMENTS = ("training", "writing", "any")
LIMIT = 600.0


@dataclass
class Round:
    """One run from its start to its end: the kills it took, and the models it left."""

    kills: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    models: dict[str, str] = field(default_factory=dict)


def start(folder: Path, recipe: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "segrefinery", "adapt", f"--recipe={recipe}", "--scale=small", "--seed=3", *SETS]
    command += [f"--set={override}" for override in (*TINY, *STEPS.get(recipe, ()))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "wb") as output:
        return subprocess.Popen(
            [*command, f"--output={folder}", "--resume"], stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def models(folder: Path) -> dict[str, str]:
    """Digest of every model that a finished run ships."""
    found = sorted(folder.glob("*model/model.safetensors"))
    return {path.parent.name: hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in found}


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoints/*.pt")}


def torn_files(folder: Path) -> set[Path]:
    """Checkpoints and stage results in writing, or left half-written by a kill."""
    return {*folder.glob("checkpoints/.*.tmp"), *folder.glob("stages/*/.*.tmp")}


def wait_until_killed(process: subprocess.Popen[bytes], folder: Path, moment: str, startup: float) -> bool:
    """Kill the process at a moment of this kind -> whether it was alive to be killed."""
    began, written, torn = time.monotonic(), checkpoints(folder), torn_files(folder)
    delay = random.uniform(0, 1.2 * startup) if moment == "any" else random.uniform(0, 1.5)
    trains_since = began if moment == "any" else None
    while process.poll() is None:
        now = time.monotonic()
        if now - began > LIMIT:
            process.kill()
            raise SystemExit(f"the run made no progress in {LIMIT:.0f} s")
        if trains_since is None and checkpoints(folder) - written:
            trains_since = now
        due = trains_since is not None and now - trains_since >= delay
        if due and (moment != "writing" or torn_files(folder) - torn):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0002 if due else 0.005)
    return False


def finished(process: subprocess.Popen[bytes], folder: Path, log: Path) -> dict[str, str]:
    if process.wait() != 0 or not (found := models(folder)):
        raise SystemExit(
            f"the run failed with exit code {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}"
        )
    return found


def startup_of(folder: Path, process: subprocess.Popen[bytes]) -> float:
    """Seconds until the first checkpoint."""
    began = time.monotonic()
    while process.poll() is None and not checkpoints(folder):
        time.sleep(0.01)
    return time.monotonic() - began


def killed_run(folder: Path, recipe: str, log: Path, wanted: int, moments: Iterator[str], startup: float) -> Round:
    """Run to the end, killed up to ``wanted`` times on the way."""
    done = Round()
    while True:
        process = start(folder, recipe, log)
        if done.kills.total() < wanted:
            moment, before = next(moments), torn_files(folder)
            if wait_until_killed(process, folder, moment, startup):
                done.kills[moment] += 1
                done.torn += bool(torn_files(folder) - before)
                continue
        done.models = finished(process, folder, log)
        return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="self_training")
    parser.add_argument("--count", type=int, default=24, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    random.seed(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root, log = Path(name), Path(name) / "log.txt"
        process = start(root / "whole", options.recipe, log)
        startup = startup_of(root / "whole", process)
        reference = finished(process, root / "whole", log)

        rounds: list[Round] = []
        moments = cycle(MOMENTS)
        while (left := options.count - sum(each.kills.total() for each in rounds)) > 0:
            folder = root / f"killed{len(rounds) + 1}"
            rounds.append(killed_run(folder, options.recipe, log, left, moments, startup))

    print(f"{machine()}; recipe {options.recipe}, {time.monotonic() - began:.0f} s in all\n")
    shipped = " | ".join(reference)
    print(f"| run | kills: {' | kills: '.join(MOMENTS)} | torn files left behind | {shipped} | the same |")
    print("|---" * (len(MOMENTS) + len(reference) + 3) + "|")
    print(f"| uninterrupted |{' |' * (len(MOMENTS) + 1)} {' | '.join(reference.values())} | |")
    for number, each in enumerate(rounds, 1):
        kills = " | ".join(str(each.kills[moment]) for moment in MOMENTS)
        same = "yes" if each.models == reference else "NO"
        print(f"| killed {number} | {kills} | {each.torn} | {' | '.join(each.models.values())} | {same} |")
    if any(each.models != reference for each in rounds):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
