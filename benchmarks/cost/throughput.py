"""Images a second, peak memory, and the share of a GPU's matrix rate that whole training steps reach. Prints Markdown.

    python benchmarks/cost/throughput.py                           # dinov2 B and L, daformer B5; needs a GPU
    python benchmarks/cost/throughput.py --recipes dinov2_base --crops 518 --batch 4 --compile no
    python benchmarks/cost/throughput.py --device cpu --recipes tiny --crops 56 --batch 1 --repeats 2  # a trial

Every row is a process of its own, so one that runs out of memory says so and the rest goes on. It trains the recipe's
adaptation from random weights on batches that are already loaded, in bf16-mixed (on a processor in float32):
``--warmup`` steps that do not count, then ``--repeats`` of which the median is shown. Images are those of source and
target together. The work of a step is counted by torch's FlopCounterMode (matrix products, convolutions and attention,
forward and backward) on the network as it is written, and divided by the step's time and by the rate of a square matrix
product in bf16 (float32) on the same device, measured in the same process. Memory is the allocator's peak, and on a
processor the process's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine, peak_mib
from lib.training import Training
from segrefinery.core.processor import keep_freed_memory
from segrefinery.engine.compilation import uncompiled
from segrefinery.engine.environment import deterministic

RECIPES = {  # name: recipe, network, what the crop's sides must be multiples of
    "dinov2_base": ("dinov2", "dinov2_base", 14),
    "dinov2_large": ("dinov2", "dinov2_large", 14),
    "daformer_b5": ("daformer", "daformer_b5", 32),
    "tiny": ("dinov2", "dinov2_small", 14),
}
LARGE = ("dinov2_base", "dinov2_large", "daformer_b5")
PRECISION = {"cuda": ("bf16-mixed", torch.bfloat16), "cpu": ("32-true", torch.float32)}


def timed(work: Callable[[], object], device: str, warmup: int, repeats: int) -> float:
    """Median seconds of a call, with all that it put on the device."""
    times = []
    for turn in range(-warmup, repeats):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn >= 0:
            times.append(time.perf_counter() - start)
    return median(times)


def matrix_rate(device: str, number: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(number) for _ in range(2))
    return 2 * side**3 / timed(lambda: a @ b, device, 3, 10)


def measure(name: str, crop: int, options: argparse.Namespace, backend: str | None) -> dict[str, Any]:
    """One row."""
    recipe, network, multiple = RECIPES[name]
    side = -(-crop // multiple) * multiple
    model = json.dumps({"name": network, "weights": "none"})
    precision, number = PRECISION[options.device]
    overrides = [f"model={model}", f"training.compile={json.dumps(backend)}", f"training.precision={precision}"]
    training = Training(recipe, "paper", overrides, (side, side), options.batch, device=options.device)
    with deterministic(options.deterministic):
        with uncompiled(backend), FlopCounterMode(display=False) as counter:
            training.step()
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(training.step, options.device, options.warmup, options.repeats)
    peak = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else peak_mib()
    rate = matrix_rate(options.device, number)
    work = counter.get_total_flops()
    return {"side": side, "seconds": seconds, "peak": peak, "work": work, "share": work / seconds / rate, "rate": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(LARGE), help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--crops", default="512,1024", help="sides, rounded up to what the network takes")
    parser.add_argument("--batch", type=int, default=2, help="images of each domain a step")
    parser.add_argument("--compile", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--deterministic", action="store_true", help="as runs are by default (training.deterministic)")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here; --device cpu --recipes tiny tries the script")
    if unknown := set(options.recipes.split(",")) - set(RECIPES):
        parser.error(f"--recipes: unknown {', '.join(sorted(unknown))}; choose of {', '.join(RECIPES)}")
    compiled = {"no": [None], "yes": [options.backend], "both": [None, options.backend]}[options.compile]
    rows = [(name, int(crop)) for name in options.recipes.split(",") for crop in options.crops.split(",")]
    if options.one:
        keep_freed_memory()
        print(json.dumps(measure(*rows[0], options, compiled[0])))
        return
    print(f"{machine(options.device)}; batch {options.batch} + {options.batch}, medians of {options.repeats} steps\n")
    print("| network | crop | compiled | images/s | step ms | peak MiB | TFLOP a step | of the matrix rate |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for name, crop in rows:
        for backend in compiled:
            own = [f"--recipes={name}", f"--crops={crop}", "--compile", "yes" if backend else "no", "--one"]
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], *own], capture_output=True, text=True)
            if done.returncode:
                print(
                    f"| {name} | {crop} | {backend or 'no'} | {done.stderr.strip().splitlines()[-1][:120]} | | | | |",
                    flush=True,
                )
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {row['side']} x {row['side']} | {backend or 'no'} "
                f"| {2 * options.batch / row['seconds']:.2f} | {1e3 * row['seconds']:.0f} | {row['peak']:,.0f} "
                f"| {row['work'] / 1e12:.2f} | {100 * row['share']:.0f} % of {row['rate'] / 1e12:.1f} TFLOP/s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
