"""What ``predict`` and ``pseudo-label`` have in common: many images, each written by itself and once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import only_writer, read_json, write_json
from segrefinery.data.datasets import ImageDataset, files_of, picture_of
from segrefinery.data.faults import DataError
from segrefinery.data.label_files import MADE
from segrefinery.data.strips import Picture
from segrefinery.engine.model import Model
from segrefinery.engine.processes import rank
from segrefinery.engine.shares import ENGINES, Fault, in_shares, on_ray, team, told_by_first, world_size
from segrefinery.evaluation.strips import is_large, label_strips
from segrefinery.interchange.labels import Item, LabelWriter
from segrefinery.interchange.labels.base import Labelled
from segrefinery.verbs.zoom import reading_of, warn_of_reading

Progress = Callable[[int, int], None]


@dataclass
class CorpusResult:
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

    def line(self, what: str, output: Path) -> str:
        """How many results there are now."""
        before = f", {self.kept} of them before" if self.kept else ""
        return f"{self.written} {what} written to {output}{before}" + (f"; {self.reading}" if self.reading else "")

    def refuse_missing(self) -> None:
        """Raise an error that names the images that were left out, if there are any."""
        if self.unreadable:
            raise SegRefineryError(
                f"{len(self.unreadable)} of {self.images} images were left out: {self.first_faults()}"
            )


@dataclass
class Job:
    """Images, a model that reads them, and what is written of each; ``factor`` is the size of pictures over theirs."""

    model: Model
    dataset: ImageDataset
    writer: LabelWriter
    factor: float = 1.0

    def item(self, index: int) -> Item:
        files = files_of(self.dataset, index)
        return Item(index, self.dataset.name(index), files[0] if files else None)

    @property
    def folder(self) -> Path:
        return self.writer.folder

    @property
    def chunk(self) -> int:
        return self.writer.chunk

    def do(self, places: Sequence[int]) -> dict[int, Fault]:
        """Write these images' results -> what is wrong with those that cannot be read."""
        faults: dict[int, Fault] = {}
        for index in places:
            if (fault := self.do_one(index)) is not None:
                faults[index] = fault
        self.writer.close()
        return faults

    def do_one(self, index: int) -> SegRefineryError | None:
        """Write one image's results -> what is wrong with the image, if it cannot be read."""
        item = self.item(index)
        try:
            picture = picture_of(self.dataset, index)
            self.writer.refuse(item, picture.size)
            large = item.file is not None and is_large(self.model.data, picture.size, picture.size)
            image = None if large else self.dataset.image(index)
        except SegRefineryError as error:
            return error
        try:
            labelled = self._by_strips(picture) if image is None else self.writer.labelled(self.model.predict(image))
        except DataError as error:  # what is wrong in the middle of a large picture
            return error
        self.writer.write(item, image, labelled)
        return None

    def _by_strips(self, picture: Picture) -> Labelled:
        """What the model says of a large picture: of it two bytes a pixel are held, and no probabilities."""
        labelled = Labelled(*(torch.empty(picture.size, dtype=torch.uint8) for _ in range(2)))
        model, threshold = self.model, self.writer.threshold
        strips = label_strips(model.network, picture, model.data, model.window, picture.size, threshold=threshold)
        for strip in strips:
            rows = slice(strip.top, strip.top + len(strip.label))
            labelled.label[rows], labelled.confidence[rows] = strip.label, strip.confidence
        return labelled

    def finished(self, index: int) -> bool:
        """Whether an image's results are there, and no older than the image."""
        return self.writer.finished(self.item(index))

    def finished_since(self, place: int, moment: int) -> bool:
        """Whether they are there and younger than a moment, in nanoseconds."""
        try:
            return self.finished(place) and self.last_file(place).stat().st_mtime_ns >= moment
        except (OSError, SegRefineryError):
            return False

    def last_file(self, place: int) -> Path:
        """The file of an image's results that is written last."""
        return self.writer.files(self.item(place))[-1]

    def finish(self, places: Sequence[int]) -> None:
        """Write what describes the results together."""
        self.writer.finish([self.item(index) for index in places])

    def to(self, device: torch.device) -> None:
        self.model.network.to(device)


def write_all(
    job: Job, settings: Mapping[str, Any], progress: Progress, engine: str = "local", workers: int = 2
) -> CorpusResult:
    """Do a job, under torchrun each process its share. What an earlier one with the same settings finished is kept,
    unless its image is newer.

    Args:
        settings: what the results depend on beside the model and the images.
        engine: ``local``, or ``ray`` with so many ``workers``.

    Raises:
        SegRefineryError: the folder holds results of other settings or cannot be written, or no image can be read.
    """
    if engine not in ENGINES:
        raise SegRefineryError(f"--engine {engine}: write {' or '.join(ENGINES)}")
    if engine == "ray" and world_size() > 1:
        raise SegRefineryError("--engine ray shares the work itself; start it without torchrun")
    every = range(len(job.dataset))
    with ExitStack() as held:
        with team():
            todo: list[int] = told_by_first(lambda: to_do(job, settings, held))
            result = CorpusResult(0, len(every), len(every) - len(todo))

            def tell(done: int) -> None:
                progress(result.kept + done, result.images)

            if rank() == 0 and todo:
                result.reading = _looked_at(job, todo[0])
            faults = on_ray(job, todo, workers, tell) if engine == "ray" else in_shares(job, todo, tell)
        if rank():
            return result
        result.unreadable = [_raised(faults[index]) for index in sorted(faults)]
        result.written = result.images - len(faults)
        if not result.written:
            raise nothing_read(job, result)
        job.finish([index for index in every if index not in faults])
    return result


def nothing_read(job: Job, result: CorpusResult) -> SegRefineryError:
    """The error of a job without results, whose folder is left as it was before."""
    (job.folder / MADE).unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        job.folder.rmdir()
    return SegRefineryError(
        f"{job.dataset.reference}: none of its {result.images} images can be read; {result.first_faults()}"
    )


def to_do(job: Job, settings: Mapping[str, Any], held: ExitStack) -> list[int]:
    """The images that are not finished; see ``recorded``. No other process may write the folder until ``held`` ends."""
    job.folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(only_writer(job.folder))
    for remark in job.writer.remarks():
        warnings.warn(remark, stacklevel=2)
    known = recorded(job, settings)
    return [index for index in range(len(job.dataset)) if not (known and job.finished(index))]


def _looked_at(job: Job, index: int) -> str:
    """Warn of what is odd in how images are read, by one of them -> at which size that is."""
    try:
        size = picture_of(job.dataset, index).size
    except SegRefineryError:
        return ""  # it is told of with the others that cannot be read
    warn_of_reading(job.model, job.dataset, size)
    return reading_of(job.model, size)


def _raised(fault: Fault) -> SegRefineryError:
    return fault if isinstance(fault, SegRefineryError) else SegRefineryError(fault)


def recorded(job: Job, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds results of the very same model, images and settings; writes the record if there is none.

    Raises:
        SegRefineryError: they are of others.
    """
    file = job.folder / MADE
    images = Path(job.dataset.reference)
    now = {
        "images": str(images.resolve()) if images.exists() else job.dataset.reference,
        "model": job.model.digest(),
        **settings,
    }
    if not file.exists():
        write_json(file, now)
        return False
    before = read_json(file, "remove it, and all results are made again")
    words = {"model": "the model or how it reads images"}
    changed = [words.get(key, key) for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
    if changed:
        raise SegRefineryError(
            f"{job.folder}: holds results of other settings ({', '.join(changed)} changed); name another folder "
            "with -o, or remove this one"
        )
    return True
