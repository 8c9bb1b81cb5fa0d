"""The few labelled images that teach a cell of a study: picked by an audit or at random, written as a data set."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from segrefinery.data.datasets import open_dataset
from segrefinery.data.label_files import palette_image, save_png
from segrefinery.verbs.audit import prepare_audit


@dataclass
class Labels:
    """Labelled target images that teach a cell.

    Attributes:
        task, source: where they are taken from, a labelled data set. target: the images that are audited.
        by: the cell whose run is audited (its ``folder`` and ``key``); None picks at random.
    """

    task: str
    source: str
    target: str
    count: int
    by: Any

    @property
    def key(self) -> list[Any]:
        return [self.source, self.count, "random" if self.by is None else self.by.key]

    def written(self, cells: Path, seed: int) -> str:
        """The data set of the picked images, made if it is not there yet."""
        who = "random" if self.by is None else f"audit-{self.by.key}"
        folder = cells / self.task / "labels" / f"{who}-{self.count}" / f"seed{seed}"
        if not (folder / "dataset.yaml").exists():
            write_picked(open_dataset(self.source), self.picked(seed, folder), folder)
        return f"folder:{folder}"

    def picked(self, seed: int, folder: Path) -> list[str]:
        """Names of the images; of an audit, whose count is two or more, the most doubtful."""
        if self.by is None:
            names = open_dataset(self.source)
            order = np.random.default_rng([seed, 20]).permutation(len(names))[: self.count]
            return [names.name(int(index)) for index in order]
        audit = folder.with_name(f"audit-of-seed{seed}")
        shutil.rmtree(audit, ignore_errors=True)  # half of one, of a run that was stopped
        found = prepare_audit(self.by.folder, self.target, audit, max(2, self.count), seed=seed)
        return [one.name for one in sorted(found, key=lambda one: -one.doubt)[: self.count]]


def write_picked(dataset: Any, names: list[str], folder: Path) -> None:
    """Some images of a labelled data set as one of their own; its description comes last, so that it is whole."""
    places = {dataset.name(index): index for index in range(len(dataset))}
    for number, name in enumerate(names):
        image, label = dataset.image(places[name]), dataset.label(places[name])
        save_png(folder / "images" / f"{number:04}.png", Image.fromarray(image.permute(1, 2, 0).numpy()))
        save_png(folder / "masks" / f"{number:04}.png", palette_image(label, dataset.space))
    described = {"classes": dict(enumerate(dataset.space.classes)), "images": "images/{name}.png",
                 "masks": "masks/{name}.png", "ignore": [255]}  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
