"""Many images by Ray's workers: images a second with one and two, and what is lost when one is killed in the middle.

Trains a small model for a few steps, draws scenes, labels them with one process, one worker and two, and again with two
of which one is killed; compares all files with those of the one process. Linux only.

    python benchmarks/cost/corpora.py [--images 400] [--size 256x512]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torchvision.io import write_png

import segrefinery as api
from segrefinery.data.datasets import open_dataset
from segrefinery.verbs.pseudo_label import write_labels

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from machine import machine


def scenes(folder: Path, images: int, size: str) -> None:
    dataset = open_dataset(f"scenes:night,count={images},size={size}")
    folder.mkdir()
    for index in range(images):
        write_png(dataset.image(index), str(folder / f"{index:05d}.png"))


def parents() -> dict[int, int]:
    """Process -> parent, of all that run."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return found


def own_workers() -> list[int]:
    """The processes of Ray's workers that this one has started."""
    tree, found = parents(), []
    for process in tree:
        above = process
        while above in tree and above != os.getpid():
            above = tree[above]
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes()
            if above == os.getpid() and b"ray::" in line and b"MapWorker" in line:
                found.append(process)
        except OSError:
            continue
    return found


class Killer:
    """Kills one worker once a share of the work is done."""

    def __init__(self, share: float) -> None:
        self.share, self.killed = share, 0
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            if not self.killed and done >= self.share * total and (workers := own_workers()):
                self.killed = workers[0]
                os.kill(self.killed, signal.SIGKILL)
                print(f"killed worker {self.killed} of {len(workers)} after {done} of {total} images")


class Watch:
    """Images a second between the first and the last that are told of, without the start of the processes."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.told.append((time.perf_counter(), done))

    def rate(self) -> float:
        (begin, first), (end, last) = self.told[0], self.told[-1]
        return (last - first) / max(end - begin, 1e-9)


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.glob("*.png"))
    return names == sorted(path.name for path in other.glob("*.png")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", default="256x512")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        few = ("stages.source.steps=4", "training.checkpoint_every=4")
        run = api.adapt(
            "source_only", "scenes:day,count=8", "scenes:night,count=8", root / "run", scale="small", overrides=few
        )
        scenes(root / "images", arguments.images, arguments.size)
        print(f"{arguments.images} images of {arguments.size}; {machine()}; load {os.getloadavg()[0]:.1f}")
        print("\n| by | images/s | seconds in all | files as of one process |\n|---|---|---|---|")
        for name, engine, workers in (("one process", "local", 1), ("1 worker", "ray", 1), ("2 workers", "ray", 2)):
            watch, begin = Watch(), time.perf_counter()
            output = root / f"{engine}{workers}"
            write_labels(run, root / "images", output, engine=engine, workers=workers, progress=watch)
            seconds, same = time.perf_counter() - begin, same_files(root / "local1", output)
            print(f"| {name} | {watch.rate():.1f} | {seconds:.1f} | {'yes' if same else 'NO'} |", flush=True)
        killer = Killer(0.3)
        found = write_labels(run, root / "images", root / "killed", engine="ray", workers=2, progress=killer)
        same = same_files(root / "local1", root / "killed")
        print(f"\nafter the kill: {found.written} of {found.images} images, files as of one process: {same}")
        if not (killer.killed and same and found.written == found.images):
            raise SystemExit("a kill lost images, or no worker was found")


if __name__ == "__main__":
    main()
