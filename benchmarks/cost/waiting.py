"""A training step on an idle machine and beside other work, by how torch's idle threads wait. Prints Markdown.

    python benchmarks/cost/waiting.py
    python benchmarks/cost/waiting.py --busy 0,1,2 --repeats 5 --steps 10

Each row is a process of its own that trains `efficientnet_lite0` (4 x 3 x 192 x 192, AdamW) on all cores; the ways to
wait take turns, and the table has the median step over all repeats. ``busy`` is the number of processes that do nothing
but work on one core each. ``ours`` is what the command line sets (``core.processor.share_fairly``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = {
    "torch's default": {},
    "at once asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "1,500 rounds": {"GOMP_SPINCOUNT": "1500"},
    "10,000 rounds": {"GOMP_SPINCOUNT": "10000"},
    "ours": {"OURS": "1"},
}
STEPS = """
import json, os, sys, time
if "OURS" in os.environ:
    from segrefinery.core.processor import share_fairly
    share_fairly()
import torch
from cost.channels_last import CLASSES, step
from segrefinery.models import ModelSettings, build_model
torch.manual_seed(0)
model = build_model(ModelSettings(name="efficientnet_lite0", weights="none"), CLASSES).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
image, label = torch.randn(4, 3, 192, 192), torch.randint(CLASSES, (4, 192, 192))
seconds = []
for _ in range(int(sys.argv[1]) + 2):
    start = time.perf_counter()
    step(model, optimizer, image, label, False)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[2:]))
"""
BUSY = "while True: sum(range(10**6))"


def measure(way: dict[str, str], steps: int) -> list[float]:
    """Seconds of each step in a process of its own."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", STEPS, str(steps)]
    found = subprocess.run(command, env=environment | way, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", default="0,1,2", help="numbers of busy processes beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    print("| busy | way to wait | step ms |\n|---:|---|---:|")
    for busy in map(int, options.busy.split(",")):
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for _ in range(options.repeats):
                for name, way in WAYS.items():
                    seconds[name] += measure(way, options.steps)
        finally:
            for other in others:
                other.kill()
        for name, values in seconds.items():
            print(f"| {busy} | {name} | {1000 * median(values):.0f} |", flush=True)


if __name__ == "__main__":
    main()
