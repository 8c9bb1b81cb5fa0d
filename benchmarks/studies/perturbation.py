"""How many labels do PRN's perturbations change? Prints a Markdown table: strength against share of changed labels.

    python benchmarks/studies/perturbation.py              # synthetic street layouts, no run needed
    python benchmarks/studies/perturbation.py --run RUN    # the network of a finished run, on its own source and target

    python benchmarks/studies/perturbation.py --run RUN --picture docs/images/perturbation.jpg

The picture has one row a pair of images: source, its labels, spoiled with 0.05 and with 0.2 of ``fourier`` (changed
pixels below in black); target, the network's labels, the reference and, in black, where the network errs. The target
must have labels for that; they are only drawn.

A label has changed where the argmax of the spoiled logits is not that of the clean ones. Beside the paper's ``fourier``
perturbation the table has our alternatives, whose strength means something else (see ``perturb``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from segrefinery.core.randomness import generator
from segrefinery.refine.refinement_network.formulas import perturb
from segrefinery.refine.refinement_network.settings import Perturbation

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


@torch.no_grad()
def draw(run: Path, source: str | None, target: str | None, path: Path, rows: int = 4) -> None:
    """What the perturbation does beside the real errors of the run's network, as a JPEG or PNG."""
    from torchvision.utils import save_image

    from segrefinery import load
    from segrefinery.core.resize import bilinear
    from segrefinery.data.datasets import Remapped, open_dataset
    from segrefinery.data.transforms import evaluation_size, resize_for_evaluation, resize_image, resize_map

    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    model = load(run)
    palette = torch.tensor([*model.space.colors, *[(0, 0, 0)] * (256 - model.space.num_classes)]) / 255
    named = ((source, "source"), (target, "target"))
    sets = [Remapped(open_dataset(given or recipe[key]), model.space) for given, key in named]

    def colored(label: Tensor) -> Tensor:
        return palette[label].permute(2, 0, 1)

    def beside(*panels: Tensor) -> Tensor:
        return torch.cat([F.pad(panel, (2, 2, 2, 2), value=1.0) for panel in panels], dim=2)

    def known(label: Tensor, where: Tensor) -> Tensor:
        return colored(label.masked_fill(where, 255))

    lines = []
    for index in range(rows):
        images = [one.image(index) for one in sets]
        size = evaluation_size(images[0].shape[-2:], model.data)
        said = [model.network(resize_for_evaluation(image, model.data)[None]) for image in images]
        seen, aligned = [one.logits for one in said], said[0].aligned
        clean, found = (bilinear(one, size, aligned)[0].argmax(dim=0) for one in seen)
        truth = resize_map(sets[1].label(index), size).long()
        panels = [resize_image(images[0], size) / 255, colored(clean)]
        for strength in (0.05, 0.2):
            spoiled = perturb(seen[0], seen[1], "fourier", strength, [generator("benchmark", index)])
            spoiled = bilinear(spoiled, size, aligned)[0].argmax(dim=0)
            panels += [known(spoiled, spoiled != clean)]
        panels += [resize_image(images[1], size) / 255, colored(found), colored(truth)]
        panels += [known(found, (found != truth) & (truth != 255))]
        lines.append(beside(*panels))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(lines, dim=1), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--source", help="labelled images, if not the run's own")
    parser.add_argument("--target", help="target images, if not the run's own")
    parser.add_argument("--images", type=int, default=20, help="pairs of images to average over")
    parser.add_argument("--picture", type=Path, help="draw it instead; needs --run and a labelled target")
    options = parser.parse_args()
    if options.picture:
        if not options.run:
            parser.error("--picture draws what a network says: add --run RUN")
        draw(options.run, options.source, options.target, options.picture)
        return
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
