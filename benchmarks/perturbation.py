"""How many labels do PRN's perturbations change? Prints a Markdown table: strength against share of changed labels.

    python benchmarks/perturbation.py                      # synthetic street layouts, no run needed
    python benchmarks/perturbation.py --run RUN            # the network of a finished run, on its own source and target

A label has changed where the argmax of the spoiled logits is not that of the clean ones. Beside the paper's ``fourier``
perturbation the table has our alternatives, whose strength means something else (see ``refine/perturbation.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from segrefinery.randomness import generator
from segrefinery.refine.perturbation import Perturbation, perturb

STRENGTHS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
KINDS: tuple[Perturbation, ...] = ("fourier", "class_dropout", "boundary_jitter")
CLASSES = 19
ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, PERSON, CAR = 0, 1, 2, 5, 8, 10, 11, 13


def street(rng: torch.Generator, size: int = 128) -> Tensor:
    """A street from simple shapes: size x size class ids of Cityscapes' 19."""

    def between(low: float, high: float) -> int:
        return int((low + (high - low) * float(torch.rand((), generator=rng))) * size)

    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    horizon, centre = between(0.35, 0.55), between(0.35, 0.65)
    label = torch.full((size, size), SKY)
    left = 0
    while left < size:
        right = left + between(0.08, 0.25) + 1
        label[between(0.05, 0.3) : horizon, left:right] = BUILDING if left % 3 else VEGETATION
        left = right + between(0.0, 0.06)
    half_road = (rows - horizon) * 0.9 + 0.05 * size
    below = rows >= horizon
    label[below] = SIDEWALK
    label[below & ((columns - centre).abs() < half_road)] = ROAD
    for kind, count, height, width in ((CAR, 4, 0.12, 0.16), (PERSON, 3, 0.16, 0.04), (POLE, 3, 0.4, 0.015)):
        for _ in range(count):
            foot, left = between(0.5, 0.85), between(0.0, 0.95)
            label[max(foot - int(height * size), 0) : foot, left : left + max(int(width * size), 1)] = kind
    return label


def synthetic_logits(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of source and target logits, 1 x 19 x 128 x 128: smooth at boundaries, a little noise, the target paler."""
    for number in range(count):
        pair = []
        for domain, scale in (("source", 8.0), ("target", 5.0)):
            rng = generator("street", domain, number)
            clean = F.one_hot(street(rng), CLASSES).permute(2, 0, 1)[None].float()
            smooth = F.avg_pool2d(clean, 3, stride=1, padding=1, count_include_pad=False)
            pair.append(scale * smooth + 0.5 * torch.randn(clean.shape, generator=rng))
        yield pair[0], pair[1]


@torch.no_grad()
def logits_of_run(run: Path, source: str | None, target: str | None, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What the run's network says of its first source images and of as many target images."""
    from segrefinery import load
    from segrefinery.data.datasets import open_dataset
    from segrefinery.data.transforms import resize_for_evaluation

    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    model = load(run)
    sets = [open_dataset(source or recipe["source"]), open_dataset(target or recipe["target"])]
    for index in range(min(count, *map(len, sets))):
        first, second = (
            model.network(resize_for_evaluation(one.image(index), model.data)[None]).logits for one in sets
        )
        yield first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--source", help="labelled images, if not the run's own")
    parser.add_argument("--target", help="target images, if not the run's own")
    parser.add_argument("--images", type=int, default=20, help="pairs of images to average over")
    options = parser.parse_args()
    if options.run:
        pairs = logits_of_run(options.run, options.source, options.target, options.images)
    else:
        pairs = synthetic_logits(options.images)

    shares = torch.zeros(len(STRENGTHS), len(KINDS), dtype=torch.float64)
    seen = 0
    for number, (logits, style) in enumerate(pairs):
        seen += 1
        clean = logits.argmax(dim=1)
        for row, strength in enumerate(STRENGTHS):
            for column, kind in enumerate(KINDS):
                spoiled = perturb(logits, style, kind, strength, [generator("benchmark", number)])
                shares[row, column] += (spoiled.argmax(dim=1) != clean).double().mean()
    if not seen:
        raise SystemExit("no images")
    print(f"Share of changed labels, mean of {seen} images ({options.run or 'synthetic streets, 128 x 128, C = 19'})\n")
    print("| strength | " + " | ".join(KINDS) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    for strength, row in zip(STRENGTHS, (shares / seen).tolist()):
        print(f"| {strength} | " + " | ".join(f"{100 * share:.1f} %" for share in row) + " |")


if __name__ == "__main__":
    main()
