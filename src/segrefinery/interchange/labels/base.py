"""What every form of labels has in common: where an image's files lie, what is finished, and what is ignored."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixelwise import confidence_and_label
from segrefinery.data.label_files import save_png
from segrefinery.data.numbering import Numbering
from segrefinery.labels import IGNORE, LabelSpace, key

BACKGROUND = "background"
AT_ONCE = 1 << 22
"""Pixels that are counted at once; their numbers take 16 bytes each."""


class Item(NamedTuple):
    """An image of a data set: its place, its name, and its file if it is one."""

    index: int
    name: str
    file: Path | None = None


class Labelled(NamedTuple):
    """What a model says of an image: label H x W ids, 255 ignored; confidence H x W in [0, 1], or uint8 (255 = 1), 0
    where ignored."""

    label: Tensor
    confidence: Tensor


@dataclass
class LabelWriter(ABC):
    """Writes the labels of images, in any order and by any number of processes, each image's whole or not at all.

    Attributes:
        folder: where to. space: the classes of the labels. numbering: the ids of another data set that are written.
        threshold: what is less confident is ignored.
        chunk: images, by their places, that one process writes together.
    """

    folder: Path
    space: LabelSpace
    numbering: Numbering | None = None
    threshold: float = 0.0
    chunk: int = 1

    @abstractmethod
    def files(self, item: Item) -> Sequence[Path]:
        """What is written of an image; the last of them last."""

    def refuse(self, item: Item, size: tuple[int, int]) -> None:  # noqa: B027
        """Asked before an image of this height and width is looked at.

        Raises:
            DataError: this form cannot hold its labels.
        """

    @abstractmethod
    def write(self, item: Item, image: Tensor | None, labelled: Labelled) -> None:
        """Write what a model says of an image.

        Args:
            image: uint8, 3 x H x W; None of a large one that is a file.
        """

    def close(self) -> None:  # noqa: B027
        """Called when a chunk is done."""

    @abstractmethod
    def finish(self, items: Sequence[Item]) -> None:
        """Called once all images are written, with all that could be read; writes what describes them together."""

    def remarks(self) -> list[str]:
        """In sentences, what this form cannot say."""
        return []

    def finished(self, item: Item) -> bool:
        """Whether an image's labels are there, and no older than the image."""
        try:
            written = self.files(item)[-1].stat().st_mtime_ns
            return item.file is None or written >= item.file.stat().st_mtime_ns
        except OSError:
            return False

    def labelled(self, probs: Tensor) -> Labelled:
        """The most probable class of each pixel, ignored below the threshold."""
        confidence, label = confidence_and_label(probs.float())
        ignored = confidence < self.threshold
        return Labelled(label.masked_fill(ignored, IGNORE), confidence.masked_fill(ignored, 0.0))

    def refuse_colors(self) -> None:
        """For forms that number their classes."""
        if self.numbering is not None and isinstance(self.numbering.codes[0], tuple):
            raise SegRefineryError(
                f"{self.numbering.space.name}: its masks hold colours and no ids that classes could have; leave --ids "
                "away"
            )

    def objects(self) -> list[tuple[int, str]]:
        """Place and name of the classes that are objects: all but the background, which is what no object covers."""
        return [(place, name) for place, name in enumerate(self.space.classes) if key(name) != BACKGROUND]

    def remarks_on_background(self) -> list[str]:
        """For forms that know nothing but objects."""
        if not self.threshold:
            return []
        return [
            f"pixels below the threshold of {self.threshold:g} are covered by no object, which tools that train on "
            "this form take for background"
        ]


def picture_name(item: Item, stem: bool = False) -> str:
    """The path of an image's copy: its name in the data set, with the suffix of its file.

    Args:
        stem: no two of the paths may be the same without their suffix, as ``a.jpg`` and ``a.png`` are.

    Raises:
        SegRefineryError: the name leads out of a folder.
    """
    path = PurePosixPath(item.name)
    if path.is_absolute() or ".." in path.parts:
        raise SegRefineryError(f"{item.name}: a name that leads out of the folder of results; rename the image")
    suffix = ".png" if item.file is None else item.file.suffix
    return item.name if suffix and item.name.endswith(suffix) and not stem else item.name + suffix


def place_picture(folder: Path, item: Item, image: Tensor | None, name: str) -> None:
    """Put an image into ``folder`` under this name. A file is linked where the disk can (it is the same
    file then) and copied where not; an image that is no file is written as PNG."""
    path = folder / name
    if item.file is None:
        assert image is not None
        save_png(path, Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    source = item.file.resolve()
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def regions(labelled: Labelled, places: Sequence[int]) -> Iterator[tuple[int, Tensor, float]]:
    """Place, pixels (H x W bool) and mean confidence of each of these classes that an image shows, one after the
    other: of a large picture not all are held."""
    pixels, confidences = torch.zeros(256, dtype=torch.int64), torch.zeros(256, dtype=torch.float64)
    rows = max(1, AT_ONCE // labelled.label.shape[1])
    for label, confidence in zip(labelled.label.split(rows), labelled.confidence.split(rows), strict=True):
        ids = label.flatten().cpu().long()
        pixels += ids.bincount(minlength=256)
        confidences += ids.bincount(confidence.flatten().cpu().double(), minlength=256)
    one = 255 if labelled.confidence.dtype == torch.uint8 else 1
    for place in places:
        if pixels[place]:
            yield place, labelled.label == place, float(confidences[place] / pixels[place]) / one
