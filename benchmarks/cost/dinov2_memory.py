"""What the recipe dinov2 needs on a GPU, calculated on this CPU. Prints Markdown. No row was measured on a GPU.

    python benchmarks/cost/dinov2_memory.py

What a training step holds at its peak, per parameter: student, teacher, gradient (4 bytes each) and two moments of
AdamW (8). Per pass of the student: its activations in bf16-mixed, a + b x tokens x images, for attention keeps no
tokens x tokens matrix; a (casts of the weights, which all passes share) and b are counted here, by the tensors that
autograd saves in the real network at two small crops, and checked at a third one. With masked consistency three passes
(source, mixed, masked) are alive at once. Per pixel: logits at the image's size and their log-softmax, float32, for
each pass. With checkpointing the backward pass computes one block of the encoder at a time again: that block's own
activations are added, taken as the difference per block. 800 MiB are set aside for the driver, libraries and
fragments.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from segrefinery.models import ModelSettings, build_model
from segrefinery.recipe import load_recipe

CLASSES, PATCH, PASSES = 19, 14, 3
SMALL, CHECK = (84, 140), 196
STATES = 4 + 4 + 4 + 8
DRIVER = 800 * 2**20
GIB = 2**30
BLOCKS = {"small": 12, "base": 12, "large": 24}
CARDS = {"8 GB": "gpu_8gb", "12 GB": "gpu_12gb", "24 GB": "gpu_24gb"}


@dataclass
class Activations:
    """Bytes that a pass saves for its backward pass: ``fixed`` once, ``per_token`` for each token of each image."""

    fixed: float
    per_token: float

    def __call__(self, crop: tuple[int, int], images: int) -> float:
        return self.fixed + self.per_token * tokens(crop) * images


def tokens(crop: tuple[int, int]) -> int:
    return -(-crop[0] // PATCH) * -(-crop[1] // PATCH)


def saved_bytes(network: torch.nn.Module, side: int) -> int:
    """Of the tensors that a forward pass on one square image saves, each storage once, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in (*network.parameters(), *network.buffers())}
    seen: dict[int, tuple[int, Tensor]] = {}  # the tensor is kept, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(1, 3, side, side)).logits
    del logits
    return sum(size for size, _ in seen.values())


def count(name: str, options: dict[str, Any]) -> tuple[int, Activations, float]:
    """A network's parameters, its activations, and how far they are off at the crop that is checked (a share)."""
    torch.manual_seed(0)
    network = build_model(ModelSettings(name=name, weights="none", options=options), CLASSES).train()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    few, many = (saved_bytes(network, side) for side in SMALL)
    slope = (many - few) / (tokens((SMALL[1], SMALL[1])) - tokens((SMALL[0], SMALL[0])))
    found = Activations(few - slope * tokens((SMALL[0], SMALL[0])), slope)
    return parameters, found, found((CHECK, CHECK), 1) / saved_bytes(network, CHECK) - 1


def peak(parameters: int, saved: Activations, again: float, crop: tuple[int, int], images: int) -> dict[str, float]:
    """Bytes by part; ``again``: of one block that is computed again, per token."""
    pixels = crop[0] * crop[1] * images
    return {
        "states": STATES * parameters,
        "activations": saved.fixed + PASSES * saved.per_token * tokens(crop) * images + again * tokens(crop) * images,
        "losses": PASSES * 2 * 4 * CLASSES * pixels,
        "driver": DRIVER,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="small,base,large", help="of the encoder")
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    print(f"{machine()}; calculated for bf16-mixed, AdamW, {CLASSES} classes; GiB\n")
    counted: dict[tuple[str, bool], tuple[int, Activations, float]] = {}
    print("| network | checkpointing | parameters | fixed MiB | KiB a token | formula against count at 196 x 196 |")
    print("|---|---|---:|---:|---:|---:|")
    for size in sizes:
        for checkpointing in (False, True):
            row = counted[size, checkpointing] = count(f"dinov2_{size}", {"checkpointing": checkpointing})
            parameters, saved, off = row
            print(
                f"| dinov2_{size} | {'yes' if checkpointing else 'no'} | {parameters:,} | {saved.fixed / 2**20:.0f} "
                f"| {saved.per_token / 1024:.0f} | {100 * off:+.2f} % |",
                flush=True,
            )

    print("\n| setting | network | crop | images | checkpointing | states | activations | losses | in all |")
    print("|---|---|---|---:|---|---:|---:|---:|---:|")
    rows: list[tuple[str, str, tuple[int, int], int]] = []
    for card, scale in CARDS.items():
        recipe = load_recipe("dinov2", scale)
        rows.append((f"{card} (`--scale {scale}`)", recipe.model.name, recipe.data.crop, recipe.data.batch))
    rows += [("as published", f"dinov2_{size}", (518, 518), 2) for size in sizes]
    for setting, name, crop, images in rows:
        size = name.removeprefix("dinov2_")
        if size not in sizes:
            continue
        for checkpointing in (False, True):
            parameters, saved, _ = counted[size, checkpointing]
            plain = counted[size, False][1].per_token
            again = (plain - saved.per_token) / BLOCKS[size] if checkpointing else 0.0
            parts = peak(parameters, saved, again, crop, images)
            shown = " | ".join(f"{parts[part] / GIB:.1f}" for part in ("states", "activations", "losses"))
            print(
                f"| {setting} | {name} | {crop[0]} x {crop[1]} | {images} | {'yes' if checkpointing else 'no'} "
                f"| {shown} | {sum(parts.values()) / GIB:.1f} |"
            )


if __name__ == "__main__":
    main()
