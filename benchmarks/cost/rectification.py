"""IR2F's function: continuity, agreement of chunks, and what a query and a dense map cost. Prints Markdown.

    python benchmarks/cost/rectification.py
    python benchmarks/cost/rectification.py --device cuda

Two learners with latents of 256 channels, 19 classes; the grids are those of a 512 x 1024 image at strides 4 and 8,
and for continuity 16 x 16 and 24 x 24 cells. The last layer, which starts at zero, is drawn at random here: with zeros
every weight would be 1/2 and continuity would be no claim.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from segrefinery.core.processor import keep_freed_memory
from segrefinery.models.segmenter import Learner
from segrefinery.refine.implicit_rectification.function import ImplicitRectification

CLASSES, DEPTH, HIDDEN = 19, 256, 256
IMAGE = (512, 1024)
QUERIES = 16384
STEP = 5e-6


def learners(sizes: Sequence[tuple[int, int]], device: str) -> list[Learner]:
    random = torch.Generator().manual_seed(0)

    def grid(channels: int, size: tuple[int, int]) -> torch.Tensor:
        return torch.randn(1, channels, *size, generator=random).to(device)

    return [Learner(grid(CLASSES, size), grid(DEPTH, size)) for size in sizes]


def function(device: str, **switches) -> ImplicitRectification:
    torch.manual_seed(0)
    module = ImplicitRectification((DEPTH, DEPTH), CLASSES, hidden=HIDDEN, **switches)
    for parameter in list(module.psi.parameters())[-2:-1]:
        torch.nn.init.normal_(parameter, std=1.0)
    return module.to(device)


@torch.no_grad()
def largest_jump(module: ImplicitRectification, device: str) -> float:
    """Between neighbours on a line across cell borders of both grids, STEP apart."""
    count = 2**16
    line = torch.stack([torch.full((count,), 0.2), 0.1 + STEP * torch.arange(count)], dim=-1).to(device)
    weights = module(learners([(16, 16), (24, 24)], device), line[None]).exp()
    return (weights[..., 1:] - weights[..., :-1]).abs().max().item()


@torch.no_grad()
def largest_chunk_difference(module: ImplicitRectification, device: str) -> float:
    seen = learners([(32, 64), (16, 32)], device)
    whole = module.decode(seen, (128, 256), chunk=128 * 256)
    return max((module.decode(seen, (128, 256), chunk=chunk) - whole).abs().max().item() for chunk in (1000, 4096))


def multiply_adds(cells: int) -> dict[str, float]:
    """Of one query, K = 2: as the formula is written, and as it is computed here for a dense map of IMAGE."""
    head = 2 * HIDDEN * HIDDEN + HIDDEN * HIDDEN + 2 * HIDDEN
    written = 2 * 4 * ((DEPTH + 2) * HIDDEN + HIDDEN * HIDDEN) + head
    once = 2 * (4 * 3 * HIDDEN + HIDDEN * HIDDEN) + head  # offsets and areas of 4 cells, then one second layer
    return {"written": written, "query": once, "grid": cells * DEPTH * HIDDEN / (IMAGE[0] * IMAGE[1])}


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    def wait() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    if device == "cuda" or repeats > 1:
        work()
    times = []
    for _ in range(repeats):
        start = wait()
        work()
        times.append(wait() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls a row; the median is printed")
    options = parser.parse_args()
    device, repeats = options.device, options.repeats
    keep_freed_memory()  # as the command line does
    print(f"{machine(device)}; K = 2, D = {DEPTH}, C = {CLASSES}, float32, batch 1")
    print(f"Times are medians of {repeats}, that of the dense map a single one.\n")

    print(f"| form | largest jump of a weight for steps of {STEP:g} |\n|---|---:|")
    forms = {
        "implicit, four cells a learner": {},
        "implicit, nearest cell": {"ensemble": "nearest"},
        "implicit, LIIF's joint shift": {"ensemble": "joint"},
        "discrete, up-sampled": {"weighting": "discrete"},
    }
    for name, switches in forms.items():
        print(f"| {name} | {largest_jump(function(device, **switches), device):.1e} |")
    module = function(device)
    print(f"\nLargest difference between chunk sizes: {largest_chunk_difference(module, device):.1e}\n")

    seen = learners([(IMAGE[0] // 4, IMAGE[1] // 4), (IMAGE[0] // 8, IMAGE[1] // 8)], device)
    cost = multiply_adds(sum(one.latent.shape[-2] * one.latent.shape[-1] for one in seen))
    print("| multiply-adds a query | thousands |\n|---|---:|")
    print(f"| as the formula is written | {cost['written'] / 1e3:,.0f} |")
    print(f"| as computed | {cost['query'] / 1e3:,.0f} |")
    print(f"| share of the first layers on the grids, {IMAGE[0]} x {IMAGE[1]} queries | {cost['grid'] / 1e3:,.0f} |")

    points = torch.rand(1, QUERIES, 2, generator=torch.Generator().manual_seed(1)).to(device) * 2 - 1
    labels = torch.randint(0, CLASSES, (1, QUERIES), generator=torch.Generator().manual_seed(2)).to(device)
    with torch.no_grad():
        read = seconds(lambda: module(seen, points), device, repeats)
        dense = seconds(lambda: module.decode(seen, IMAGE), device, 1)
    train = seconds(lambda: module.nll(seen, points, labels).backward(), device, repeats)
    print("\n| work | time | a query |\n|---|---:|---:|")
    pixels = IMAGE[0] * IMAGE[1]
    for name, spent, queries in (
        (f"weights at {QUERIES:,} points", read, QUERIES),
        (f"loss and gradients at {QUERIES:,} points", train, QUERIES),
        (f"class probabilities at {IMAGE[0]} x {IMAGE[1]}", dense, pixels),
    ):
        print(f"| {name} | {spent:.3f} s | {1e6 * spent / queries:.2f} us |")


if __name__ == "__main__":
    main()
