"""Memory format and precision: a training step of each network, plain, with the channels last, in bf16, and in both.

    python benchmarks/cost/precision.py                       # a table in Markdown; 3 minutes on two idle cores
    python benchmarks/cost/precision.py --rows efficientnet_lite0 --steps 10

A step is forward, backward and a fused AdamW step on random images. The four ways take turns, after two that do not
count, and the table has their medians. ``chosen`` is what a run does by itself: the channels last where the network
says so (``Segmenter.channels_last``), in float32; bf16 is chosen by ``training.precision=bf16-mixed``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cost.channels_last import CLASSES, step
from lib.machine import machine
from lib.turns import rows_and_steps, take_turns
from segrefinery.core.processor import has_bf16
from segrefinery.models import ModelSettings, build_model

NETWORKS = {
    "efficientnet_lite0": (4, 192, 192),
    "smp:unet/resnet18": (4, 192, 192),
    "daformer:resnet18": (4, 192, 192),
    "dinov2_small": (2, 196, 196),
    "deeplabv2_resnet101": (1, 256, 512),
}
"""Networks, and images, height and width of their batches."""
WAYS = {"plain": (False, False), "channels last": (True, False), "bf16": (False, True), "both": (True, True)}


def measure(name: str, shape: tuple[int, int, int], steps: int) -> tuple[dict[str, float], bool]:
    """Median seconds of each way, and whether the network says that its channels are to be last."""
    images, height, width = shape
    image, label = torch.randn(images, 3, height, width), torch.randint(CLASSES, (images, height, width))
    works: dict[str, Callable[[], object]] = {}
    says = False
    for way, (last, bf16) in WAYS.items():
        torch.manual_seed(0)
        model = build_model(ModelSettings(name=name, weights="none"), CLASSES).train()
        says = model.channels_last
        model = model.to(memory_format=torch.channels_last if last else torch.contiguous_format)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        works[way] = partial(step, model, optimizer, image, label, bf16)
    return {way: median(values) for way, values in take_turns(works, steps).items()}, says


def main() -> None:
    names, steps = rows_and_steps(__doc__, NETWORKS, steps=4)
    print(f"{machine()}; bfloat16 of its own: {has_bf16()}\n")
    print("| network | batch | plain s | channels last s | bf16 s | both s | chosen | fastest |")
    print("|---|---|---:|---:|---:|---:|---|---|")
    for name in names:
        shape = NETWORKS[name]
        seconds, says = measure(name, shape, steps)
        times = " | ".join(f"{value:.2f}" for value in seconds.values())
        chosen, fastest = "channels last" if says else "plain", min(seconds, key=lambda way: seconds[way])
        print(f"| {name} | {' x '.join(map(str, shape))} | {times} | {chosen} | {fastest} |", flush=True)


if __name__ == "__main__":
    main()
