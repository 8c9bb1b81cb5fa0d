"""What ``predict`` and ``pseudo-label`` have in common: many images, each written by itself and once."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json, write_json
from segrefinery.data.datasets import ImageDataset, files_of
from segrefinery.engine.model import Model
from segrefinery.interchange.labels import Item, LabelWriter
from segrefinery.verbs.zoom import warn_of_reading

RECORD = "made.json"
"""In a folder of results: by which model and with which settings they are made."""
Progress = Callable[[int, int], None]


@dataclass
class Written:
    """What was done.

    Attributes:
        written: images whose results are in the folder. images: how many there were.
        kept: how many of the former were finished before.
        unreadable: what was wrong with each of the others.
        reading: at which size the first was read, and the zoom against training.
    """

    written: int
    images: int
    kept: int = 0
    unreadable: list[SegRefineryError] = field(default_factory=list)
    reading: str = ""

    def first_faults(self, most: int = 5) -> str:
        """What is wrong, of so many images."""
        more = len(self.unreadable) - most
        return " ".join(map(str, self.unreadable[:most])) + (f" And {more} more." if more > 0 else "")

    def refuse_missing(self) -> None:
        """Raise an error that names the images that were left out, if there are any."""
        if self.unreadable:
            raise SegRefineryError(
                f"{len(self.unreadable)} of {self.images} images were left out: {self.first_faults()}"
            )


@dataclass
class Job:
    """Images, a model that reads them, and what is written of each."""

    model: Model
    dataset: ImageDataset
    writer: LabelWriter

    def item(self, index: int) -> Item:
        files = files_of(self.dataset, index)
        return Item(index, self.dataset.name(index), files[0] if files else None)

    def do(self, index: int) -> SegRefineryError | None:
        """Write one image's results -> what is wrong with the image, if it cannot be read."""
        try:
            image = self.dataset.image(index)
        except SegRefineryError as error:
            return error
        self.writer.write(self.item(index), image, self.model.predict(image))
        return None


def write_all(job: Job, settings: Mapping[str, Any], progress: Progress) -> Written:
    """Do a job. What an earlier one with the same settings finished is kept, unless its image is newer.

    Args:
        settings: what the results depend on beside the model and the images.

    Raises:
        SegRefineryError: the folder holds results of other settings or cannot be written, or no image can be read.
    """
    for remark in job.writer.remarks():
        warnings.warn(remark, stacklevel=2)
    known = recorded(job, settings)
    every = range(len(job.dataset))
    todo = [index for index in every if not (known and job.writer.finished(job.item(index)))]
    result = Written(0, len(every), len(every) - len(todo))
    faults = _one_by_one(job, todo, lambda done: progress(result.kept + done, result.images))
    result.unreadable = list(faults.values())
    result.written = result.images - len(faults)
    if not result.written:
        raise SegRefineryError(
            f"{job.dataset.reference}: none of its {result.images} images can be read; {result.first_faults()}"
        )
    job.writer.finish([job.item(index) for index in every if index not in faults])
    return result


def _one_by_one(job: Job, places: Sequence[int], progress: Callable[[int], None]) -> dict[int, SegRefineryError]:
    """Do these images -> what is wrong with those that cannot be read."""
    faults: dict[int, SegRefineryError] = {}
    said = False
    for done, index in enumerate(places, 1):
        if (fault := job.do(index)) is not None:
            faults[index] = fault
        elif not said:
            warn_of_reading(job.model, job.dataset, job.dataset.image(index))
            said = True
        progress(done)
    job.writer.close()
    return faults


def recorded(job: Job, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds results of the very same model, images and settings; writes the record if there is none.

    Raises:
        SegRefineryError: they are of others.
    """
    file = job.writer.folder / RECORD
    images = Path(job.dataset.reference)
    now = {
        "images": str(images.resolve()) if images.exists() else job.dataset.reference,
        "model": digest_of(job.model),
        **settings,
    }
    if not file.exists():
        write_json(file, now)
        return False
    before = read_json(file, "remove it, and all results are made again")
    changed = [name for name in now if not isinstance(before, dict) or before.get(name) != now[name]]
    if changed:
        raise SegRefineryError(
            f"{job.writer.folder}: holds results of other settings ({', '.join(changed)} changed); name another folder "
            "with -o, or remove this one"
        )
    return True


def digest_of(model: Model) -> str:
    """What a model's answers depend on: its weights, its classes, and how it reads images."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{model.space} {model.data} {model.window}".encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def refuse_inside(output: str | Path, images: str | Path) -> None:
    """Refuse results among the images that they are made of: the next reading would take them for images."""
    if Path(images).is_dir() and Path(output).resolve().is_relative_to(Path(images).resolve()):
        raise SegRefineryError(f"{output}: lies in {images}, whose images are read; name a folder outside with -o")
