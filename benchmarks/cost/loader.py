"""How fast images reach the network: decoded, augmented and batched, per core, against decoding alone.

Makes 2048 x 1024 PNGs with masks in a temporary folder, as street-scene data sets publish them, and prints a Markdown
table. One process on one thread reads everything, and what counts is its processor time, so the numbers are per core
and hold on a busy machine. torchvision's decoder, which verifies nothing, is there for comparison.

    python benchmarks/cost/loader.py [--images 12] [--seconds 10]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import Tensor
from torchvision.io import decode_image, write_png
from torchvision.transforms.v2 import functional as T

from segrefinery.core.randomness import generator
from segrefinery.data import png
from segrefinery.data.decoding import read_ids, read_image
from segrefinery.data.loader import Cached, training_batches
from segrefinery.data.sampling import UniformSampler
from segrefinery.data.transforms import DataSettings

SIZE = (1024, 2048)
CROP = (512, 1024)


class Pngs:
    """PNG images and index masks in a folder."""

    has_labels = True

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images

    def __len__(self) -> int:
        return self.images

    def image(self, index: int) -> Tensor:
        return read_image(self.folder / f"{index}.png")

    def label(self, index: int) -> Tensor:
        return read_ids(self.folder / f"{index}_mask.png").long()


def paint(folder: Path, images: int) -> None:
    """Write pictures, and masks in blocks; about as hard to compress as photographs (3 to 4 MB each)."""
    for index in range(images):
        rng = generator("benchmark", index)
        write_png(photograph(rng), str(folder / f"{index}.png"))
        mask = torch.randint(0, 19, (1, 32, 64), generator=rng).to(torch.uint8)
        write_png(T.resize(mask, list(SIZE), T.InterpolationMode.NEAREST), str(folder / f"{index}_mask.png"))


def photograph(rng: torch.Generator, bands: int = 3) -> Tensor:
    """Smooth shapes with sensor noise: uint8, bands x H x W."""
    shapes = torch.rand(bands, 16, 32, generator=rng)
    picture = T.resize(shapes, list(SIZE), antialias=True) * 255
    return (picture + 3 * torch.randn(bands, *SIZE, generator=rng)).clamp(0, 255).to(torch.uint8)


def rate(read: Callable[[], Iterator[int]], seconds: float) -> float:
    """Images per second of processor time, after one image to warm up."""
    counts = read()
    next(counts)
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds:
        done += next(counts)
    return done / (time.process_time() - start)


def decoded(data: Pngs) -> Iterator[int]:
    """Decode image and mask, nothing else."""
    step = 0
    while True:
        data.image(step % len(data))
        data.label(step % len(data))
        step += 1
        yield 1


def decoded_by_pillow(data: Pngs) -> Iterator[int]:
    """The same files as without imagecodecs."""
    with mock.patch.object(png, "_spng", None):
        yield from decoded(data)


def decoded_by_torchvision(data: Pngs) -> Iterator[int]:
    """The same files by torchvision."""
    step = 0
    while True:
        decode_image(str(data.folder / f"{step % len(data)}.png"))
        decode_image(str(data.folder / f"{step % len(data)}_mask.png")).long()
        step += 1
        yield 1


def batched(data: Any, settings: DataSettings) -> Callable[[], Iterator[int]]:
    """Training batches, as the training loop gets them."""

    def read() -> Iterator[int]:
        sampler = UniformSampler(len(data), seed=0)
        for batch in training_batches(data, settings, sampler, steps=10**6, workers=0):
            yield len(batch)

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = DataSettings(crop=CROP, scale=(0.5, 1.5), batch=2)
    with tempfile.TemporaryDirectory() as name:
        paint(Path(name), options.images)
        data = Pngs(Path(name), options.images)
        megabytes = sum(path.stat().st_size for path in Path(name).iterdir()) / options.images / 1e6
        cached = Cached(data, plain.model_copy(update={"short_side": 512}))
        cached.fill(1)
        ways: list[tuple[str, Callable[[], Iterator[int]]]] = [
            ("decode only (image and mask)", lambda: decoded(data)),
            ("the same without imagecodecs", lambda: decoded_by_pillow(data)),
            ("torchvision's decoder (image and mask)", lambda: decoded_by_torchvision(data)),
            ("decode, scale 0.5-1.5, crop, flip", batched(data, plain)),
            ("the same from short side 512", batched(data, plain.model_copy(update={"short_side": 512}))),
            ("scale 0.5-1.5 and colour jitter 0.2", batched(data, plain.model_copy(update={"photometric": 0.2}))),
            (
                "scale 0.5-1.5, jitter and blur",
                batched(data, plain.model_copy(update={"photometric": 0.2, "blur": 1.0})),
            ),
            ("cached at short side 512", batched(cached, plain.model_copy(update={"short_side": 512}))),
        ]
        rates = [(title, rate(read, options.seconds)) for title, read in ways]
    print(
        f"One of {os.cpu_count()} cores ({platform.processor() or platform.machine()}), torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}; crops of {CROP[0]} x {CROP[1]} "
        f"from {SIZE[1]} x {SIZE[0]} PNGs, {megabytes:.1f} MB each with mask.\n"
    )
    print("| what | images/s per core | against decoding |\n|---|---:|---:|")
    for title, speed in rates:
        print(f"| {title} | {speed:.1f} | {speed / rates[0][1]:.2f} |")


if __name__ == "__main__":
    main()
