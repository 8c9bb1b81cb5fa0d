"""Memory and time of the prediction of large pictures, and images a second beside the bare network. Prints Markdown.

    python benchmarks/cost/large_pictures.py
    python benchmarks/cost/large_pictures.py --sizes 8192x8192 50000x2000 --kinds tif --classes 19
    python benchmarks/cost/large_pictures.py --sizes 10000x10000 --verbs evaluate pseudo-label --images 0
    python benchmarks/cost/large_pictures.py --sizes 8192x8192 --verbs pseudo-label --formats coco yolo --images 0

Each picture is made here (HEIGHTxWIDTH; a TIFF has tiles of 512 pixels, most of them empty) and predicted, or with
`--verbs` scored or labelled, by `small` of width 16 with random weights, in a process of its own, from file to files.
"Peak" is the largest resident set of that process, "before" what it was when all was imported and built. "In the
network" is the time of as many windows as there are, each as long as one takes by itself in that process. The last
table predicts a folder of images, one pass each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision.io import write_png

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine, peak_mib, resident_mib
from segrefinery.core.settings import two_sides
from segrefinery.data.label_files import save_png
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.model import Model
from segrefinery.evaluation.inference import probs_of, stride_of, windows_at_once
from segrefinery.evaluation.strips import window_for
from segrefinery.evaluation.windows import shares
from segrefinery.interchange.labels import LABEL_FORMATS
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, build_model
from segrefinery.verbs.evaluate import evaluate
from segrefinery.verbs.predict import write_predictions
from segrefinery.verbs.pseudo_label import write_labels

DATA = DataSettings(crop=(128, 256))
NAMES = [f"class {i}" for i in range(255)]
VERBS = ("predict", "evaluate", "pseudo-label")


def model_of(network: str, classes: int, **options: int) -> Model:
    """A network with random weights that reads images at their own size."""
    torch.manual_seed(0)
    segmenter = build_model(ModelSettings(name=network, weights="none", options=options), classes).eval()
    return Model(segmenter, segmenter, LabelSpace.of("c", NAMES[:classes]), DATA)


def paint(path: Path, size: tuple[int, int]) -> None:
    """A picture with noise along its diagonal and nothing elsewhere."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    if path.suffix == ".png":
        image = torch.zeros(3, *size, dtype=torch.uint8)
        for start in range(0, min(size) - 512, 1024):
            image[:, start : start + 512, start : start + 512] = torch.from_numpy(noise).permute(2, 0, 1)
        write_png(image, str(path))
        return
    import tifffile

    def tiles() -> Iterator[np.ndarray | None]:
        for row in range(-(-size[0] // 512)):
            for column in range(-(-size[1] // 512)):
                yield noise if row % 8 == column % 8 else None

    how = {"tile": (512, 512), "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(path, tiles(), shape=(*size, 3), dtype=np.uint8, bigtiff=True, **how)


def in_the_network(model: Model, size: tuple[int, int]) -> float:
    """Seconds of all windows of a picture, by the median of five batches."""
    window = window_for(size, model.data, None)
    down, across = (shares(*axis, stride_of(model.network)) for axis in zip(size, window, size, strict=True))
    batch = windows_at_once(window, torch.device("cpu"))
    image, seconds = torch.randn(batch, 3, *window), []
    with torch.no_grad():
        for _ in range(6):
            start = time.perf_counter()
            probs_of(model.network, image, window)
            seconds.append(time.perf_counter() - start)
    return median(seconds[1:]) * len(down) * len(across) / batch


def masked(path: Path, size: tuple[int, int], classes: int) -> str:
    """A data set of the picture and a mask of one class."""
    save_png(path.parent / "masks/in.png", Image.new("L", size[::-1]))
    text = f"images: '{{name}}{path.suffix}'\nmasks: masks/{{name}}.png\nclasses: [{', '.join(NAMES[:classes])}]\n"
    (path.parent / "dataset.yaml").write_text(text)
    return f"folder:{path.parent}"


def child(path: Path, size: tuple[int, int], classes: int, verb: str, form: str) -> dict[str, float]:
    """Predict, score or label one picture, here; ``form`` is the format that is written."""
    model = model_of("small", classes, width=16, blocks=1)
    on = masked(path, size, classes) if verb == "evaluate" else path
    network, before, start = in_the_network(model, size), resident_mib(), time.perf_counter()
    if verb == "evaluate":
        evaluate(model, on)
    elif verb == "pseudo-label":
        write_labels(model, on, path.parent / "out", format=form)
    else:
        write_predictions(model, on, path.parent / "out", size="native", format=form)
    return {"seconds": time.perf_counter() - start, "network": network, "before": before, "peak": peak_mib()}


def measured(path: Path, size: tuple[int, int], classes: int, verb: str, form: str) -> dict[str, float]:
    """``child`` in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--child",
        str(path),
        "--sizes",
        f"{size[0]}x{size[1]}",
        "--classes",
        str(classes),
        "--verbs",
        verb,
        "--formats",
        form,
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def rates(network: str, images: int, size: tuple[int, int], classes: int) -> tuple[float, float]:
    """Images a second of prediction from files to files, and of the bare pass; the better of two turns each."""
    model, best = model_of(network, classes), [0.0, 0.0]
    image = torch.randn(1, 3, *size)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        generator = torch.Generator().manual_seed(0)
        for index in range(images):
            coarse = torch.rand(1, 3, 16, 32, generator=generator) * 255
            shown = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].to(torch.uint8)
            write_png(shown, f"{folder}/in/{index:03d}.png")
        for turn in range(2):
            start = time.perf_counter()
            write_predictions(model, f"{folder}/in", f"{folder}/out{turn}")
            best[0] = max(best[0], images / (time.perf_counter() - start))
            start = time.perf_counter()
            with torch.no_grad():
                for _ in range(images):
                    probs_of(model.network, image, size).max(dim=1)
            best[1] = max(best[1], images / (time.perf_counter() - start))
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="*", default=["8192x8192", "10000x10000", "50000x2000", "2000x50000"])
    parser.add_argument("--kinds", nargs="*", default=["tif"], choices=["tif", "png"])
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--verbs", nargs="*", default=["predict"], choices=VERBS)
    parser.add_argument("--formats", nargs="*", default=["png"], choices=LABEL_FORMATS)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    sizes = [two_sides("--sizes", size) for size in options.sizes]
    if options.child:
        print(json.dumps(child(options.child, sizes[0], options.classes, options.verbs[0], options.formats[0])))
        return
    print(f"{machine()}; {options.classes} classes\n")
    print(
        "| what | picture | pixels | s | in the network, s | before MiB | peak MiB |\n|---|---|---|---:|---:|---:|---:|"
    )
    for kind, verb, form in product(options.kinds, options.verbs, options.formats):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"in.{kind}"
                paint(path, size)
                found = measured(path, size, options.classes, verb, form)
            row = [found[name] for name in ("seconds", "network", "before", "peak")]
            print(
                f"| {verb} {form} | {kind} | {size[1]} x {size[0]} | "
                + " | ".join(f"{value:,.0f}" for value in row)
                + " |",
                flush=True,
            )
    if not options.images:
        return
    print("\n| network | image | bare pass, images/s | predict, images/s | share |\n|---|---|---:|---:|---:|")
    for network in ("small", "efficientnet_lite0"):
        whole, bare = rates(network, options.images, (512, 1024), options.classes)
        print(f"| {network} | 1024 x 512 | {bare:.2f} | {whole:.2f} | {whole / bare:.2f} |", flush=True)


if __name__ == "__main__":
    main()
