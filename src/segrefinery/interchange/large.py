"""Predictions of large pictures, written strip by strip, so that what is finished is kept if the program is stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json, whole_file, write_json
from segrefinery.data.decoding import MOST_PIXELS
from segrefinery.data.label_files import file_stem, save_png
from segrefinery.data.strips import AT_ONCE, Picture
from segrefinery.data.transforms import evaluation_size
from segrefinery.engine.model import Model
from segrefinery.evaluation.strips import Strip, label_strips, window_for
from segrefinery.interchange.predictions import overlay
from segrefinery.interchange.raster import note_of, scaled, write_png, write_tiff
from segrefinery.labels import LabelSpace

OVERVIEW = 4096
"""Longest side of a large picture's overlay."""
PART = 1 << 23
"""Pixels that are finished between two saves, at least."""
_KEY = "key.json"


def files_of_large(folder: Path, index: int, name: str, picture: Picture, out: tuple[int, int]) -> dict[str, Path]:
    """The files of ``write_large``, by kind; TIFF where a place on earth is kept, or a PNG would be too large."""
    stem = folder / file_stem(index, name)
    suffix = "tif" if picture.geo or out[0] * out[1] > MOST_PIXELS else "png"
    endings = {"label": suffix, "confidence": f"confidence.{suffix}", "overlay": "overlay.png"}
    return {kind: stem.with_name(f"{stem.name}.{ending}") for kind, ending in endings.items()}


def write_large(
    folder: Path,
    index: int,
    name: str,
    picture: Picture,
    model: Model,
    out: tuple[int, int],
    about: str = "",
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Path]:
    """Write class ids, confidence and an overlay of at most 4096 pixels a side; what is finished is not done again.

    Args:
        index, name: as of ``write_prediction``.
        out: height and width of the result.
        about: what the result depends on beside the picture's size: the file and the model.
        progress: told what share is done.

    Returns:
        What was written, by kind: ``label``, ``overlay``, ``confidence``.
    """
    paths = files_of_large(folder, index, name, picture, out)
    size = evaluation_size(picture.size, model.data)
    key: dict[str, object] = {"about": about, "size": [*picture.size], "read": [*size], "out": [*out]}
    key["window"] = [*window_for(size, model.data, model.window)]
    note = json.dumps(key)
    if paths["label"].exists() and note_of(paths["label"]) == note:
        return paths
    parts = Parts(parts_folder(paths["label"].parent, index, name), out)
    parts.begin(key)
    with ThreadPoolExecutor(1) as thread:
        saving = None
        for strip in _joined(label_strips(model.network, picture, model.data, model.window, out, parts.rows)):
            if saving is not None:
                saving.result()
            saving = thread.submit(parts.save, strip)
            progress((strip.top + len(strip.label)) / out[0])
        if saving is not None:
            saving.result()
    geo = scaled(picture.geo, (out[0] / picture.size[0], out[1] / picture.size[1]))
    for kind, colors in (("confidence", ()), ("label", model.space.colors)):
        if kind == "label":  # the last one: where it is, all are
            save_png(paths["overlay"], Image.fromarray(_overview(picture, parts, model.space)))
        if paths[kind].suffix == ".tif":
            write_tiff(paths[kind], parts.all(kind), out, colors, geo, note)
        else:
            write_png(paths[kind], parts.all(kind), out, colors, note)
    parts.remove()
    return paths


def parts_folder(output: Path, index: int, name: str) -> Path:
    """Where the strips of a picture are kept until it is finished."""
    return output / f"{file_stem(index, name)}.parts"


@dataclass
class Parts:
    """The finished strips of a picture, a file each, until all are there.

    Attributes:
        size: of the result. rows: how many are finished.
    """

    folder: Path
    size: tuple[int, int]
    rows: int = 0

    def begin(self, key: dict[str, object]) -> None:
        """Keep what was finished with the same key, and remove the rest."""
        try:
            same = read_json(self.folder / _KEY) == key
        except SegRefineryError:
            same = False
        if not same:
            self.remove()
            write_json(self.folder / _KEY, key)
        self.rows = sum(height for _, height in self._files())

    def save(self, strip: Strip) -> None:
        """Keep a strip: the next one."""
        file = self.folder / f"{strip.top:09d}-{len(strip.label)}.npz"
        with whole_file(file, durable=False) as opened:
            np.savez_compressed(opened, label=strip.label.numpy(), confidence=strip.confidence.numpy())
        self.rows = strip.top + len(strip.label)

    def all(self, kind: str) -> Iterator[np.ndarray]:
        """The strips, from top to bottom: ``label`` or ``confidence``."""
        for file, _ in self._files():
            with np.load(file) as strip:
                yield strip[kind]

    def remove(self) -> None:
        """Remove the files."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _files(self) -> Iterator[tuple[Path, int]]:
        """The files and the rows of each, as far as they follow each other."""
        row = 0
        for file in sorted(self.folder.glob("*.npz")):
            top, height = (int(number) for number in file.stem.split("-"))
            if top != row:
                return
            row += height
            yield file, height


def _joined(strips: Iterator[Strip]) -> Iterator[Strip]:
    """The same rows in strips that are worth a file."""
    held: list[Strip] = []
    for strip in strips:
        held.append(strip)
        if sum(part.label.numel() for part in held) >= PART:
            yield _one(held)
            held = []
    if held:
        yield _one(held)


def _one(strips: list[Strip]) -> Strip:
    label, confidence = ([getattr(strip, kind) for strip in strips] for kind in ("label", "confidence"))
    return Strip(strips[0].top, torch.cat(label), torch.cat(confidence))


def _overview(picture: Picture, parts: Parts, space: LabelSpace) -> np.ndarray:
    """The overlay of every n-th pixel, h x w x 3."""
    step = -(-max(parts.size) // OVERVIEW)
    places = [torch.arange(step // 2 if step < side else 0, side, step) for side in parts.size]
    rows, columns = (
        ((place * 2 + 1) * side).div(2 * out, rounding_mode="floor")
        for place, side, out in zip(places, picture.size, parts.size, strict=True)
    )
    shown, lines = [], max(1, AT_ONCE // picture.size[1])
    for top in range(0, picture.size[0], lines):
        bottom = min(top + lines, picture.size[0])
        wanted = rows[(rows >= top) & (rows < bottom)] - top
        if len(wanted):
            shown.append(picture.rows(top, bottom)[:, wanted][..., columns])
    label, row = [], 0
    for strip in parts.all("label"):
        wanted = places[0][(places[0] >= row) & (places[0] < row + len(strip))] - row
        label.append(torch.from_numpy(strip)[wanted][:, places[1]])
        row += len(strip)
    return overlay(torch.cat(shown, dim=1), torch.cat(label), space)
