"""Street scenes of six bands, for the study `bands`: red, green, blue, and three that no camera of colours sees.

    python benchmarks/data/six_bands.py [--count 400] [--tests 100] [--folder benchmarks/.cells/six_bands]

Bands 4 to 6 have a mean of their own for each class, the same by day and by night, under noise as wide as the means are
apart: each alone says little, all of them and their surroundings much. `six.yaml` reads all, `three.yaml` the colours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image

from segrefinery.data.scenes import SceneDataset

NOISE = 40.0
"""Standard deviation of the noise of bands 4 to 6, of 255."""


def six_bands(image: np.ndarray, label: np.ndarray, number: int, classes: int) -> np.ndarray:
    """H x W x 6 uint8 of an image H x W x 3 and its label."""
    means = np.random.default_rng(0).uniform(40, 215, (256, 3))[: classes + 1]
    noise = np.random.default_rng([1, number]).normal(0, NOISE, (*label.shape, 3))
    further = means[np.minimum(label, classes)] + noise
    return np.concatenate([image, np.clip(further, 0, 255).astype(np.uint8)], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--tests", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/.cells/six_bands"))
    options = parser.parse_args()
    parts = (("day", "train", options.count), ("night", "train", options.count), ("night", "test", options.tests))
    for look, split, count in parts:
        folder, scenes = options.folder / f"{look}_{split}", SceneDataset(look, split, count)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        for number in range(count):
            label = scenes.label(number).numpy().astype(np.uint8)
            image = scenes.image(number).permute(1, 2, 0).numpy()
            values = six_bands(image, label, number, scenes.space.num_classes)
            how = {"photometric": "minisblack", "planarconfig": "contig", "tile": (64, 64), "compression": "zlib"}
            tifffile.imwrite(folder / f"images/{number:04d}.tif", values, **how)
            Image.fromarray(label).save(folder / f"masks/{number:04d}.png")
        described = {"images": "images/{name}.tif", "masks": "masks/{name}.png", "classes": list(scenes.space.classes)}
        for name, bands in (("six", [1, 2, 3, 4, 5, 6]), ("three", [1, 2, 3])):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": "scenes", **described, "bands": bands}))
        print(f"{folder}: {count} images")


if __name__ == "__main__":
    main()
