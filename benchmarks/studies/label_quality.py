"""How good the labels are that self-training learned from, on labelled target images. Prints Markdown.

    python benchmarks/studies/label_quality.py RUN [RUN ...] --data scenes:night@train [--images 200] [--svg shares.svg]

The chain of refiners of a run's last self-training stage is rebuilt from the run folder, with its final state, and put
before a teacher: the network the stage started from where labels were made once (offline generations), the network it
ended in where they were made as it went (its moving average is not kept). ``--teacher`` chooses otherwise. Other ways
to choose labels are then applied to the same teacher. The labels of the data are read for these scores only.

Precision: share of the kept pixels whose label is right. Coverage: share of the reference's pixels that are kept.
mIoU (kept) leaves rejected pixels out. KL: of the class shares of the kept labels from the reference's, in nats.
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
from lib.labels_of_run import Labeller, labeller_of
from lib.machine import machine
from lib.noise import NoiseScores
from lib.shares import bar, draw
from lib.spread import Spread
from segrefinery.data.align import align
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.loader import WholeImages
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.refine.base import PseudoLabels, Refiner
from segrefinery.refine.class_balanced import ClassBalancedSettings
from segrefinery.refine.confidence import ConfidenceThresholdSettings
from segrefinery.refine.entropy_mixture.refiner import EntropyMixtureSettings
from segrefinery.refine.refinement_network.refiner import RefinementNetwork

OTHERS = {
    "teacher's argmax": None,
    "fixed threshold 0.9": ConfidenceThresholdSettings(threshold=0.9, classes="none"),
    "class medians": ConfidenceThresholdSettings(classes="fitted", portion=0.5, cap=0.9),
    "CBST, half of each class": ClassBalancedSettings(portion=0.5),
    "entropy mixture": EntropyMixtureSettings(),
}


@dataclass
class Counts:
    """Labels against the reference over all images: of all pixels, and of those that are kept."""

    every: ConfusionMatrix
    kept: ConfusionMatrix

    @classmethod
    def of(cls, num_classes: int) -> Counts:
        return cls(ConfusionMatrix(num_classes), ConfusionMatrix(num_classes))

    def see(self, labels: PseudoLabels, reference: Tensor) -> None:
        full = labels.resize((reference.shape[-2], reference.shape[-1]))
        hard = full.probs.argmax(dim=1)
        self.every.update(hard, reference)
        self.kept.update(hard, reference.masked_fill(full.weight <= 0, IGNORE))

    @property
    def precision(self) -> Tensor:
        """C: of the kept pixels labelled as each class, the share that is right; NaN for none."""
        return self.kept.matrix.diag().double() / self.kept.matrix.sum(0).double()

    @property
    def coverage(self) -> Tensor:
        """C: of each class' reference pixels, the share that is kept, whatever its label; NaN for none."""
        return self.kept.matrix.sum(1).double() / self.every.matrix.sum(1).double()

    @property
    def overall(self) -> list[float]:
        total = self.every.matrix.sum()
        return [
            self.every.miou,
            self.kept.miou,
            self.kept.pixel_accuracy,
            float(self.kept.matrix.sum() / total),
        ]

    @property
    def shares(self) -> Tensor:
        """C: class shares of the kept labels."""
        counts = self.kept.matrix.sum(0).double()
        return counts / counts.sum().clamp(min=1)


def reference_shares(counts: Counts) -> Tensor:
    pixels = counts.every.matrix.sum(1).double()
    return pixels / pixels.sum()


def divergence(reference: Tensor, shares: Tensor) -> float:
    """KL(reference || shares) in nats; a share of 0 counts as 1e-6."""
    return float(torch.where(reference > 0, reference * (reference / shares.clamp(min=1e-6)).log(), 0.0).sum())


@torch.no_grad()
def examine(one: Labeller, data: str, images: int) -> tuple[LabelSpace, dict[str, Counts], NoiseScores | None]:
    dataset = open_dataset(data)
    labelled: Any = Spread(align(dataset, UnlabeledView(dataset), dataset, space=one.space).evaluation, images)
    target = WholeImages(UnlabeledView(labelled), one.data, workers=0)
    refiners: dict[str, Refiner | None] = {}
    for name, settings in OTHERS.items():
        refiners[name] = None if settings is None else settings.build(one.teacher.network, one.space)  # pyright: ignore
        if refiners[name] is not None:
            refiners[name].fit(one.teacher, (), target)  # pyright: ignore[reportOptionalMemberAccess]
    found = {name: Counts.of(one.space.num_classes) for name in (*OTHERS, one.name)}
    networks = [refiner for refiner in one.chain if isinstance(refiner, RefinementNetwork)]
    noise = NoiseScores() if networks else None
    if networks:
        found["refined by the network alone"] = Counts.of(one.space.num_classes)
    for batch in target:
        view = one.teacher.view(batch.image, batch.index)
        reference = labelled.label(int(batch.index))[None].long()
        for name, refiner in refiners.items():
            start = PseudoLabels.from_view(view)
            found[name].see(start if refiner is None else refiner(view, start), reference)
        found[one.name].see(one.labels(view), reference)
        if networks and noise is not None:
            seen = networks[0].examine(view)
            probs = seen.logits.softmax(dim=1)
            found["refined by the network alone"].see(PseudoLabels(probs, torch.ones_like(probs[:, 0])), reference)
            noise.see(view, seen, reference)
    return one.space, found, noise


def percent(value: float) -> str:
    return "—" if value != value else f"{100 * value:.1f}"


def tables(space: LabelSpace, found: dict[str, Counts]) -> str:
    """All labels, then precision and coverage by class, then the class shares."""
    reference = reference_shares(next(iter(found.values())))
    lines = [
        "| labels | mIoU (all) | mIoU (kept) | precision | coverage | KL of shares |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, counts in found.items():
        values = " | ".join(percent(value) for value in counts.overall)
        lines.append(f"| {name} | {values} | {divergence(reference, counts.shares):.3f} |")
    lines.append("\nPrecision / coverage by class:\n")
    lines += [f"| class | {' | '.join(found)} |", "|---" + "|---:" * len(found) + "|"]
    for place, name in enumerate(space.classes):
        pairs = ((float(counts.precision[place]), float(counts.coverage[place])) for counts in found.values())
        lines.append(f"| {name} | {' | '.join(f'{percent(one)} / {percent(other)}' for one, other in pairs)} |")
    lines.append("\nClass shares of the kept labels (bars: square roots):\n")
    lines += [f"| class | reference | {' | '.join(found)} |", "|---" * (len(found) + 2) + "|"]
    for place, name in enumerate(space.classes):
        values = [float(each[place]) for each in (reference, *(counts.shares for counts in found.values()))]
        lines.append(f"| {name} | {' | '.join(f'{100 * value:.2f} % {bar(value)}' for value in values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs")
    parser.add_argument("--data", required=True, help="labelled target images: NAME:PATH[@SPLIT]")
    parser.add_argument("--images", type=int, default=200, help="at most so many")
    parser.add_argument("--teacher", choices=["start", "end"], help="by default as the run's labels were made")
    parser.add_argument("--svg", type=Path, help="draw the class shares of the runs' own labels into this file")
    options = parser.parse_args()
    print(f"{machine()}; {options.data}, up to {options.images} images")
    drawn: dict[str, Tensor] = {}
    for run in options.runs:
        one = labeller_of(run, options.teacher)
        space, found, noise = examine(one, options.data, options.images)
        print(f"\n### {one.name} ({run.parent.name}/{run.name})\n\n{tables(space, found)}", flush=True)
        if noise is not None:
            print(f"\nThe noise mask against the teacher's true mistakes:\n\n{noise.table()}")
        drawn = {"reference": reference_shares(found[one.name])} | drawn | {one.name: found[one.name].shares}
        if options.svg:
            draw(options.svg, space.classes, drawn)


if __name__ == "__main__":
    main()
