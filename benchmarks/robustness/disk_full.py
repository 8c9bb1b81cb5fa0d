"""Let the disk be full at many levels in the verbs that write, and try again with room.

    python benchmarks/robustness/disk_full.py --count 50 --folder /tmp/disk_full

A level is the size that no file may exceed (RLIMIT_FSIZE). The command must be done, or be one line and exit code 2;
the same command with room must then end well. The record in the folder makes it resumable. Prints Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.forked import ADAPT, keep, largest_file, lines, made, remaining, run, table
from lib.machine import machine

PATIENCE = 120.0
"""Seconds, for to train takes longer than to read."""
VERBS = ("predict", "pseudo-label", "audit", "report", "adapt", "evaluate", "export")
IMAGES = "scenes:night,count=3,size=32x64"


def command(verb: str, base: Path, trial: Path) -> list[object]:
    run = base / "run"
    return {
        "adapt": [*ADAPT, "-o", trial / "run", "--resume"],
        "predict": ["predict", run, IMAGES, "-o", trial / "out"],
        "pseudo-label": ["pseudo-label", run, IMAGES, "-o", trial / "out"],
        "audit": ["audit", run, IMAGES, "-n", 2, "-o", trial / "out"],
        "report": ["report", trial / "copy"],
        "evaluate": ["evaluate", run, "--on", f"{IMAGES}@test"],
        "export": ["export", run, "-o", trial / "out.pt2", "--format", "torch"],
    }[verb]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="levels of each verb")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS, help="others want another folder")
    options = parser.parse_args()
    base, trial, record = options.folder, options.folder / "trial", options.folder / "disk_full.jsonl"
    base.mkdir(parents=True, exist_ok=True)
    made(base / "run")
    verbs = options.verbs
    for number in remaining(record, options.count * len(verbs)):
        verb, level = verbs[number % len(verbs)], number // len(verbs)
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        if verb == "report":
            shutil.copytree(base / "run", trial / "copy")
        size = round(1.25 ** (level * 60 / max(options.count, 1)))  # from a byte to what no file here reaches
        outcome = run(command(verb, base, trial), largest_file(size), PATIENCE)
        if verb == "audit":
            shutil.rmtree(trial / "out", ignore_errors=True)
        again = run(command(verb, base, trial), limit=PATIENCE)
        outcome.seconds = 0.0 if outcome.code >= 0 else outcome.seconds  # only a hang is of interest here
        keep(record, number, verb, outcome, f"not mended by room: {again.said[-300:]}" if again.code else None)
    print(f"{machine()}; {len(lines(record))} levels\n")
    raise SystemExit(not table(record))


if __name__ == "__main__":
    main()
