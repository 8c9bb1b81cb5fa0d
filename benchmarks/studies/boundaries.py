"""Borders, other image sizes and calibration of finished runs, on labelled images. Prints Markdown.

    python benchmarks/studies/boundaries.py RUN [RUN ...] --data scenes:night@test [--images 200]
    python benchmarks/studies/boundaries.py --study benchmarks/studies/ir2f.yaml --task day2night [--images 50]

With a study, the runs of a row are its finished cells of a task, on the task's evaluation set: mean and standard
deviation over the seeds.

Boundary IoU is the mean IoU inside a trimap of 2 or 5 pixels around the reference's borders, at the label's size. At
0.5x and 2x the network is given the image at half and at twice the size it is made for; its prediction is still
compared at the label's size. The expected calibration error (15 bins) and the last columns are at 1x; for a network
that mixes learners (IR2F) there is a row for each learner and for their plain average.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import study
from lib.machine import machine
from segrefinery.core.resize import bilinear
from segrefinery.data.align import align
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.transforms import evaluation_size, normalize, resize_image
from segrefinery.engine.model import Model, load
from segrefinery.evaluation.boundary import boundary_counts
from segrefinery.evaluation.calibration import Calibration
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.evaluation.inference import Size, logits_at
from segrefinery.labels import IGNORE
from segrefinery.refine.implicit_rectification.refiner import RectifiedSegmenter

FACTORS = (0.5, 1.0, 2.0)
WIDTHS = (2, 5)


@dataclass
class Scores:
    """Counts over all images of one predictor at one size."""

    num_classes: int
    whole: ConfusionMatrix = field(init=False)
    borders: dict[int, ConfusionMatrix] = field(init=False)
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        self.whole = ConfusionMatrix(self.num_classes)
        self.borders = {width: ConfusionMatrix(self.num_classes) for width in WIDTHS}

    def see(self, probs: Tensor, label: Tensor) -> None:
        """C x H x W and H x W."""
        confidence, pred = probs.max(dim=0)
        self.whole.update(pred, label)
        for width, counts in self.borders.items():
            counts.merge(boundary_counts(pred, label, width, self.num_classes))
        known = label != IGNORE
        self.calibration.update(confidence[known].clamp(max=1), (pred == label)[known])

    def values(self) -> list[float]:
        return [self.whole.miou, *(counts.miou for counts in self.borders.values())]


def looks(model: Model, image: Tensor, factor: float, out: Size) -> Iterator[tuple[str, Tensor]]:
    """What the shipped predictor says, C x ``out`` probabilities, and, if it mixes learners, what each of them says."""
    height, width = evaluation_size(image.shape[-2:], model.data)
    resized = resize_image(image, (round(factor * height), round(factor * width)))
    seen = normalize(resized, model.data.pixel_mean, model.data.pixel_std)[None].contiguous()
    yield "shipped", logits_at(model.network, seen, out).float().softmax(dim=1)[0]
    if isinstance(model.network, RectifiedSegmenter):
        learners = model.network.segmenter(seen).learners
        own = [bilinear(one.logits.float(), out, one.aligned) for one in learners]
        probs = [one.softmax(dim=1)[0] for one in own]
        yield from ((f"learner {number}", one) for number, one in enumerate(probs, 1))
        yield "plain average", torch.stack(probs).mean(dim=0)


@torch.no_grad()
def examine(model: Model, data: str, images: int, every: int) -> dict[str, dict[float, Scores]]:
    """Predictor -> size factor -> scores."""
    dataset = open_dataset(data)
    labelled = align(dataset, UnlabeledView(dataset), dataset, space=model.space).evaluation
    assert labelled is not None
    found: dict[str, dict[float, Scores]] = {}
    for index in range(0, len(labelled), every)[:images]:
        image, label = labelled.image(index), labelled.label(index).long()
        for factor in FACTORS:
            for name, probs in looks(model, image, factor, (label.shape[-2], label.shape[-1])):
                by_factor = found.setdefault(name, {each: Scores(model.space.num_classes) for each in FACTORS})
                by_factor[factor].see(probs, label)
    return found


def numbers(scores: dict[float, Scores]) -> list[float]:
    """One predictor's row: its values at every size, and the calibration error."""
    return [*(value for factor in FACTORS for value in scores[factor].values()), scores[1.0].calibration.error]


def percent(values: tuple[float, ...]) -> str:
    """Mean over runs, with the standard deviation where there are several."""
    known = [100 * value for value in values if not math.isnan(value)]
    if not known:
        return "—"
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def cells(path: Path, task: str) -> tuple[dict[str, list[Path]], str]:
    """Row -> the folders of its finished cells; and the task's evaluation set."""
    described, found = study.read_study(path)
    rows: dict[str, list[Path]] = {}
    for cell in found:
        if cell.task == task and cell.done() is not None and (cell.folder / "model").exists():
            rows.setdefault(cell.row, []).append(cell.folder)
    return rows, described["tasks"].get(task, {}).get("evaluation", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders of finished runs, or of models")
    parser.add_argument("--data", help="labelled images: NAME:PATH[@SPLIT]")
    parser.add_argument("--study", type=Path, help="a study file, in place of runs and data")
    parser.add_argument("--task", help="of the study")
    parser.add_argument("--images", type=int, default=10**9, help="at most so many")
    parser.add_argument("--every", type=int, default=1, help="1 = every image, 4 = every fourth (frames of a drive)")
    options = parser.parse_args()
    if options.study is not None and options.task:
        rows, data = cells(options.study, options.task)
        if not rows:
            parser.error(f"{options.study} has no finished cell of the task {options.task!r}")
    elif options.runs and options.data:
        rows, data = {f"{run.parent.name}/{run.name}": [run] for run in options.runs}, options.data
    else:
        parser.error("give runs and --data, or --study and --task")
    print(f"{machine()}; {data}; in %, the expected calibration error too\n")
    columns = [f"{what} {factor:g}x" for factor in FACTORS for what in ("mIoU", *(f"border {w} px" for w in WIDTHS))]
    print(f"| run | runs | predictor | {' | '.join(columns)} | ECE |")
    print("|---|---:|---" + "|---:" * (len(columns) + 1) + "|")
    for row, runs in rows.items():
        found = [examine(load(run), data, options.images, options.every) for run in runs]
        for name in found[0]:
            values = zip(*(numbers(one[name]) for one in found), strict=True)
            print(f"| {row} | {len(runs)} | {name} | {' | '.join(map(percent, values))} |", flush=True)


if __name__ == "__main__":
    main()
