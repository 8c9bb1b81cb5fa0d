"""Scenes: images a second on one core, and the share of pixels of each class.

OMP_NUM_THREADS=1 python benchmarks/cost/scenes_speed.py [--count 200] [--height 128] [--width 256]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from segrefinery.data.scenes import SceneDataset
from segrefinery.data.scenes.classes import CLASSES
from segrefinery.data.scenes.looks import LOOKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    size = arguments.height, arguments.width

    shares = np.zeros(len(CLASSES))
    present = np.zeros(len(CLASSES), int)
    print(f"| look | images/s (image and label, {size[0]} x {size[1]}) |\n|---|---|")
    for look in LOOKS:
        scenes = SceneDataset(look, count=arguments.count, size=size)
        scenes.image(0)
        seconds, labels = 0.0, []
        for index in range(1, len(scenes)):
            start = time.process_time()
            scenes.image(index)
            labels.append(scenes.label(index).numpy())
            seconds += time.process_time() - start
        print(f"| {look} | {len(labels) / seconds:.0f} |")
        for label in labels:
            counts = np.bincount(label.ravel(), minlength=len(CLASSES))
            shares += counts / label.size
            present += counts > 0
    scenes_seen = len(LOOKS) * (arguments.count - 1)
    print("\n| class | share of pixels | scenes with it |\n|---|---|---|")
    for name, share, number in zip(CLASSES, shares / scenes_seen, present / scenes_seen):
        print(f"| {name} | {100 * share:.2f} % | {100 * number:.0f} % |")


if __name__ == "__main__":
    main()
