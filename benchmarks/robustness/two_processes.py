"""Start two runs with different seeds into one folder: one must train it, the other must say who holds it.

    python benchmarks/robustness/two_processes.py --count 20 --folder /tmp/two

The record in the folder makes it resumable. Prints Markdown; exits with 1 where both, or none, ended well.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.forked import ADAPT, end, keep, remaining, start, table
from lib.machine import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record, folder = options.folder / "two_processes.jsonl", options.folder / "run"
    for number in remaining(record, options.count):
        shutil.rmtree(folder, ignore_errors=True)
        children = []
        for seed in range(2):
            children.append(start([*ADAPT, "-o", folder, f"--seed={seed}"]))
            time.sleep(random.Random(number).choice((0, 0.01, 0.3)))
        ends = [end(child, 600) for child in children]
        loser = max(ends, key=lambda outcome: outcome.code)
        right = sorted(outcome.code for outcome in ends) == [0, 2]
        loser.seconds = min(loser.seconds, 20.0)  # it is refused at once; the other trains as long as it takes
        keep(record, number, "two runs, one folder", loser, None if right else f"exit codes {[e.code for e in ends]}")
    print(f"{machine()}; {options.count} pairs\n")
    raise SystemExit(not table(record))


if __name__ == "__main__":
    main()
