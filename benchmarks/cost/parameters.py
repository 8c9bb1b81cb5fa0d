"""Parameter counts against the published networks, output strides, and one forward pass of each on the CPU.

    python benchmarks/cost/parameters.py [--no-forward]

Counts are taken without memory (on torch's meta device); the forward pass runs 1 x 3 x 128 x 256, random weights.
"""

from __future__ import annotations

import argparse
import logging
import time

import torch
from torch import nn

from segrefinery.models import ModelSettings, build_model
from segrefinery.models.hrda import HRDA, HRDASettings

CLASSES = 19
HEIGHT, WIDTH = 128, 256

# Network, part of it ("" for the whole), options, published number.
PUBLISHED = [
    ("deeplabv2_resnet101", "", {"head": "se", "auxiliary": False}, 65_063_568),
    ("deeplabv2_resnet101", "head", {}, 1_400_908),
    ("deeplabv2_resnet101", "head", {"aspp_bug_compat": True}, 700_454),
    ("daformer_b5", "encoder", {}, 81_443_008),
    ("daformer_b5", "head", {}, 3_712_275),
    ("daformer_b5", "head.fusion", {}, 3_444_224),
]
SCALE_ATTENTION = 530_707
FORWARD = ["small", "deeplabv2_resnet101", "fcn8s_vgg16", "segformer_b0", "daformer_b5", "dinov2_small", "dinov2_base"]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(name: str, options: dict | None = None, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return build_model(ModelSettings(name=name, weights="none", options=options or {}), CLASSES)


def counts() -> None:
    print("| network | part | options | parameters | published | |\n|---|---|---|---:|---:|---|")
    for name, part, options, published in PUBLISHED:
        found = count(build(name, options, "meta").get_submodule(part))
        shown = ", ".join(f"{key}={value}" for key, value in options.items())
        print(f"| {name} | {part or 'all'} | {shown} | {found:,} | {published:,} | {verdict(found, published)} |")
    with torch.device("meta"):
        found = count(
            HRDA(build_model(ModelSettings(name="daformer_b5", weights="none"), CLASSES), HRDASettings()).attention
        )
    print(
        f"| HRDA on daformer_b5 | attention | | {found:,} | {SCALE_ATTENTION:,} | {verdict(found, SCALE_ATTENTION)} |"
    )


def verdict(found: int, published: int) -> str:
    return "equal" if found == published else f"differs by {found - published:+,}"


def forwards() -> None:
    print(f"\n| network | parameters | logits for {HEIGHT} x {WIDTH} | stride | features | forward, ms |")
    print("|---|---:|---|---:|---:|---:|")
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    for name in FORWARD:
        model = build(name).eval()
        with torch.no_grad():
            model(image)
            start = time.perf_counter()
            seen = model(image)
            spent = time.perf_counter() - start
        height, width = seen.logits.shape[-2:]
        # The patches of a vision transformer and the pooling of DeepLab-v2 round up.
        stride = f"{HEIGHT / height:.2f}"
        row = (name, f"{count(model):,}", f"{height} x {width}", stride, seen.features.shape[1], f"{1000 * spent:.0f}")
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-forward", action="store_true", help="counts only")
    arguments = parser.parse_args()
    logging.getLogger("segrefinery").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {CLASSES} classes\n")
    counts()
    if not arguments.no_forward:
        forwards()
