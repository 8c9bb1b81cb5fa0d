"""Peak memory of the passes over a data set, at few and at many images. Prints Markdown.

    python benchmarks/cost/pass_memory.py [--images 100 3000] [--size 32 64]

Each pass runs in a process of its own over PNG images with masks that are made here, through the network ``small``
where it needs one. "Added" is the peak of the resident set over what was resident before the pass, after one image had
gone through it. What is kept for each image (its file names, its row of class counts) is part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision.io import write_png

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine, peak_mib, resident_mib
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.loader import WholeImages
from segrefinery.data.scan import class_pixel_counts, scan
from segrefinery.data.transforms import DataSettings
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.teacher import Teacher
from segrefinery.refine.class_balanced import ClassBalancedSettings
from segrefinery.refine.class_features import gather_statistics
from segrefinery.refine.confidence import ConfidenceThresholdSettings
from segrefinery.refine.entropy_mixture import class_entropies
from segrefinery.refine.entropy_mixture.refiner import EntropyMixtureSettings

CLASSES = 19


def paint(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Random images with block masks, as a ``folder`` data set."""
    rng = torch.Generator().manual_seed(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for index in range(images):
        write_png(torch.randint(256, (3, *size), generator=rng, dtype=torch.uint8), f"{folder}/images/{index:05d}.png")
        blocks = torch.randint(CLASSES, (size[0] // 8, size[1] // 8), generator=rng, dtype=torch.uint8)
        mask = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
        write_png(mask[None], f"{folder}/masks/{index:05d}.png")
    described = {
        "images": "images/{name}.png",
        "masks": "masks/{name}.png",
        "classes": {index: f"class {index}" for index in range(CLASSES)},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described))


class Few:
    """The first images of a pass, for the call that starts libraries and threads."""

    def __init__(self, batches: Any, count: int = 1) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.count)


def passes(folder: Path) -> dict[str, tuple[Callable[[Any, Any], object], Any, Any]]:
    """Name -> the work on (source, target), and the two."""
    labelled = open_dataset(f"folder:{folder}")
    source, target = WholeImages(labelled, DataSettings()), WholeImages(UnlabeledView(labelled), DataSettings())
    torch.manual_seed(0)
    space = LabelSpace.of("noise", [f"class {index}" for index in range(CLASSES)])
    network = build_model(ModelSettings(name="small"), CLASSES).eval()
    teacher = Teacher(network)

    def fit(settings: Any) -> Callable[[Any, Any], object]:
        refiner = settings.build(network, space)
        return lambda source, target: refiner.fit(teacher, source, target)

    return {
        "class pixel counts": (lambda source, target: class_pixel_counts(source), labelled, None),
        "scan (check)": (lambda source, target: scan(source), labelled, None),
        "confidence thresholds": (fit(ConfidenceThresholdSettings()), source, target),
        "class-balanced thresholds": (fit(ClassBalancedSettings()), source, target),
        "entropy mixture": (fit(EntropyMixtureSettings()), source, target),
        "prototypes": (
            lambda source, target: gather_statistics(teacher, source, target, space.classes),
            source,
            target,
        ),
        "class entropies": (lambda source, target: class_entropies(network, target), source, target),
    }


NAMES = (
    "class pixel counts", "scan (check)", "confidence thresholds", "class-balanced thresholds", "entropy mixture",
    "prototypes", "class entropies",
)  # fmt: skip


@torch.no_grad()
def measure(name: str, folder: Path, warm: Path) -> dict[str, float]:
    work, source, target = passes(folder)[name]
    if target is None:
        work(open_dataset(f"folder:{warm}"), None)
    else:
        work(Few(source), Few(target))
    before, start = resident_mib(), time.perf_counter()
    work(source, target)
    return {"peak": peak_mib(), "added": max(peak_mib() - before, 0.0), "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=(100, 3000))
    parser.add_argument("--size", type=int, nargs=2, default=(32, 64), help="height and width")
    parser.add_argument("--one", nargs=3, metavar=("PASS", "FOLDER", "WARM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]), Path(options.one[2]))))
        return
    few, many = options.images
    print(f"{machine()}; images of {options.size[0]} x {options.size[1]}, {CLASSES} classes\n")
    print(f"| pass | peak MiB, {few:,} | peak MiB, {many:,} | added, {few:,} | added, {many:,} | s, {many:,} |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folders = {}
        for count in (1, few, many):
            folders[count] = Path(name) / str(count)
            folders[count].mkdir()
            paint(folders[count], count, tuple(options.size))
        for each in NAMES:
            rows = []
            for count in (few, many):
                environment = os.environ | {"SEGREFINERY_CACHE": f"{name}/cache-{each}-{count}"}
                command = [sys.executable, __file__, "--one", each, str(folders[count]), str(folders[1])]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
            first, second = rows
            print(
                f"| {each} | {first['peak']:.0f} | {second['peak']:.0f} | {first['added']:.1f} | {second['added']:.1f} "
                f"| {second['seconds']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
