"""Time of a training step (forward, backward, AdamW) with the channels first and last in memory.

    python benchmarks/cost/channels_last.py efficientnet_lite0 --size 128 --size 192
    python benchmarks/cost/channels_last.py deeplabv2_resnet101 --size 512 --device cuda --precision bf16

Both layouts take turns and the fastest step of each counts, so that what else the machine does weighs on both alike.
Prints one line of JSON for each network and size.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.turns import take_turns
from segrefinery.core.resize import bilinear
from segrefinery.models import ModelSettings, Segmenter, build_model

CLASSES = 19


def step(model: Segmenter, optimizer: torch.optim.Optimizer, image: torch.Tensor, label: torch.Tensor, bf16: bool):
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
        seen = model(image)
        loss = F.cross_entropy(bilinear(seen.logits.float(), label.shape[-2:]), label)
        if seen.aux_logits is not None:
            loss = loss + F.cross_entropy(bilinear(seen.aux_logits.float(), label.shape[-2:]), label)
    loss.backward()
    optimizer.step()
    if image.is_cuda:
        torch.cuda.synchronize()


def measure(name: str, size: int, options: argparse.Namespace) -> dict[str, object]:
    device = torch.device(options.device)
    image = torch.randn(options.batch, 3, size, size, device=device)
    label = torch.randint(CLASSES, (options.batch, size, size), device=device)
    layouts = {"first": torch.contiguous_format, "last": torch.channels_last}
    works = {}
    for layout, memory_format in layouts.items():
        torch.manual_seed(0)
        model = build_model(ModelSettings(name=name, weights="none"), CLASSES).to(device).train()
        model = model.to(memory_format=memory_format)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        works[layout] = partial(step, model, optimizer, image, label, options.precision == "bf16")
    seconds = take_turns(works, options.steps)
    best = {f"channels_{layout}_s": round(min(values), 4) for layout, values in seconds.items()}
    return {"network": name, "batch": options.batch, "size": size, "device": options.device, **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--size", type=int, action="append", default=[])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    options = parser.parse_args()
    for name in options.networks:
        for size in options.size or [128, 192]:
            print(json.dumps(measure(name, size, options)), flush=True)


if __name__ == "__main__":
    main()
