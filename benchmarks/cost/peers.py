"""Our training step beside what people write instead, in one process, in turns. Prints Markdown.

    python benchmarks/cost/peers.py                   # 3 minutes on two idle cores
    python benchmarks/cost/peers.py --steps 10 --rows smp

``smp``: a plain loop on segmentation_models.pytorch, as its users write it: U-Net on EfficientNet-Lite0, a labelled
source batch, a target batch that an averaged copy labels and trusts above 0.9, AdamW. Ours is `self_training` on the
same network (``smp:unet/timm-tf_efficientnet_lite0``), crop and batch, which also mixes, jitters, and fits thresholds;
``ours, bare`` leaves these out (no mixing, no strong view, one threshold), so that both do the same.
``segformer``: transformers' own fine-tuning step of a SegFormer (its model computes the loss from labels), one labelled
batch; ours is the `source_only` step on the same network. Weights are random, data are scenes of 19 classes.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from lib.training import Training
from lib.turns import rows_and_steps, take_turns

SIZE, BATCH, CLASSES = (192, 192), 4, 19
ENCODER = "timm-tf_efficientnet_lite0"
SAME = ("stages.adapt.mixing=none", "stages.adapt.strong=null", "stages.adapt.statistics=both",
        "stages.adapt.refine=[{confidence_threshold: {classes: none, threshold: 0.9}}]")  # fmt: skip
Step = Callable[[], object]


def smp_loop() -> Step:
    """A source batch, a target batch that an averaged copy labels, and the average."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    student = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-4)
    source, target = torch.randn(BATCH, 3, *SIZE), torch.randn(BATCH, 3, *SIZE)
    label = torch.randint(CLASSES, (BATCH, *SIZE))

    def step() -> None:
        with torch.no_grad():
            confidence, pseudo = teacher(target).softmax(dim=1).max(dim=1)
            pseudo[confidence < 0.9] = 255
        optimizer.zero_grad()
        loss = F.cross_entropy(student(source), label, ignore_index=255)
        on_target = F.cross_entropy(student(target), pseudo, ignore_index=255, reduction="none")
        (loss + on_target.mean()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 0.01)
            for old, new in zip(teacher.buffers(), student.buffers(), strict=True):
                old.copy_(new)

    return step


def segformer_step() -> Step:
    """transformers' SegFormer: its own loss on one labelled batch."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5)
    image, label = torch.randn(BATCH, 3, *SIZE), torch.randint(CLASSES, (BATCH, *SIZE))

    def step() -> None:
        optimizer.zero_grad()
        model(pixel_values=image, labels=label).loss.backward()
        optimizer.step()

    return step


def ours(recipe: str, network: str, *changes: str) -> Step:
    return Training(recipe, "small", [f"model={{name: '{network}', weights: none}}", *changes], SIZE, BATCH).step


ROWS: dict[str, dict[str, Callable[[], Step]]] = {
    "smp": {
        "segmentation_models.pytorch, plain loop": smp_loop,
        "ours, bare": lambda: ours("self_training", f"smp:unet/{ENCODER}", *SAME),
        "ours, self_training": lambda: ours("self_training", f"smp:unet/{ENCODER}"),
        "ours, self_training with scale small's network": lambda: ours("self_training", "efficientnet_lite0"),
    },
    "segformer": {
        "transformers, SegFormer-B0": segformer_step,
        "ours, source_only": lambda: ours("source_only", "segformer_b0"),
    },
}


def main() -> None:
    rows, repeats = rows_and_steps(__doc__, ROWS, steps=6)
    print(f"{machine()}; {BATCH} x {SIZE[0]} x {SIZE[1]} a domain, medians of {repeats}\n")
    print("| step | ms | images/s | beside the first |")
    print("|---|---:|---:|---:|")
    for row in rows:
        steps = {name: build() for name, build in ROWS[row].items()}
        seconds = {name: median(values) for name, values in take_turns(steps, repeats).items()}
        first = next(iter(seconds.values()))
        images = BATCH * (2 if row == "smp" else 1)
        for name, here in seconds.items():
            print(f"| {name} | {1000 * here:.0f} | {images / here:.1f} | {here / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
