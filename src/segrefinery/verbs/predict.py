"""Segment images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.overlap import overlapped
from segrefinery.core.settings import choose
from segrefinery.data.datasets import ImageDataset, open_dataset, picture_of
from segrefinery.data.decoding import DataError, read_image
from segrefinery.data.films import FilmDataset, write_film
from segrefinery.data.label_files import file_stem, write_manifest
from segrefinery.data.settings import References
from segrefinery.data.transforms import resize_image
from segrefinery.engine.model import Model, load
from segrefinery.engine.shares import world_size
from segrefinery.interchange.labels import LABEL_FORMATS
from segrefinery.interchange.large import parts_folder
from segrefinery.interchange.pictures import OpenedImage, Predictions, times
from segrefinery.verbs.corpus import CorpusResult, Job, nothing_read, to_do, write_all
from segrefinery.verbs.named import named_images, refuse_inside
from segrefinery.verbs.zoom import at_size, reading_of, warn_of_reading


@checked
def predict(
    run: str | Path | Model,
    images: References,
    *,
    factor: Annotated[float, Field(gt=0)] = 1.0,
    size: str | int = "trained",
    skip: Callable[[SegRefineryError], None] | None = None,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each image's name, its uint8 3 x H x W pixels and its class probabilities, C x H x W times ``factor``.

    Args:
        images: a folder, a glob, a file, or any data set's name.
        factor: size of the probabilities over that of the image; what decodes at any resolution (IR2F) does.
        size: at which size images are read: as ``trained``, ``native``, or pixels of the shorter side.
        skip: told of an image that cannot be read, which is then left out; without it the error is raised.
    """
    model = at_size(run if isinstance(run, Model) else load(run), size)
    dataset, said = open_dataset(named_images("images", images)), False
    model.refuse_other_bands(dataset)
    for index in range(len(dataset)):
        try:
            image = dataset.image(index)
        except SegRefineryError as error:
            if skip is None:
                raise
            skip(error)
            continue
        if not said:
            warn_of_reading(model, dataset, image)
            said = True
        yield dataset.name(index), image, model.predict(image, times((image.shape[-2], image.shape[-1]), factor))


def write_predictions(
    run: str | Path | Model,
    images: References,
    output: str | Path,
    *,
    factor: float = 1.0,
    size: str | int = "trained",
    format: str = "png",
    engine: str = "local",
    workers: int = 2,
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> CorpusResult:
    """Write what ``predict`` finds.

    Args:
        factor, size: as of ``predict``.
        format: ``png``, of each image class ids, a colour overlay and the confidence, and ``files.csv``, where large
            pictures are written strip by strip and continued where an earlier run was stopped; or ``coco``,
            ``yolo`` or ``parquet`` (see ``pseudo_label``). Of a film also a film, with the overlay beside the frames.
        engine, workers: as of ``pseudo_label``.

    Raises:
        SegRefineryError: the folder cannot be written, or none of the images can be read.
    """
    model = at_size(run if isinstance(run, Model) else load(run), size)
    dataset = open_dataset(named_images("images", images))
    refuse_inside(output, dataset)
    model.refuse_other_bands(dataset)
    choose(LABEL_FORMATS, format, "format")
    if factor != 1 and format != "png":
        raise SegRefineryError(f"--format {format} labels images at their own size; leave --factor away")
    kind = PictureJob if format == "png" else Job
    job = kind(model, dataset, LABEL_FORMATS[format](Path(output), model.space), factor)
    settings = {"format": format, "factor": factor}
    if isinstance(job, PictureJob) and engine == "local" and world_size() == 1:
        with ExitStack() as held:
            return write_pictures(job, to_do(job, settings, held), progress)
    return write_all(job, settings, progress, engine, workers)


@dataclass
class PictureJob(Job):
    """Predictions as pictures, for processes that share the images."""

    @cached_property
    def work(self) -> Predictions:
        return Predictions(self.model, self.dataset, self.folder, self.factor)

    def do_one(self, index: int) -> SegRefineryError | None:
        picture = self.work.read(index)
        if isinstance(picture, SegRefineryError):
            return picture
        try:
            self.work.compute(index, picture, lambda share: None)()
        except DataError as error:
            return error
        return None

    def finished(self, index: int) -> bool:
        stem = file_stem(index, self.dataset.name(index))
        if not (self.folder / f"{stem}.overlay.png").exists():  # before its header is read, or it is decoded
            return False
        try:
            image = self.item(index).file
            newest = 0 if image is None else image.stat().st_mtime_ns
            return min(file.stat().st_mtime_ns for file in self._files(index)) >= newest
        except (OSError, SegRefineryError):
            return False

    def last_file(self, place: int) -> Path:
        return max(self._files(place), key=lambda file: file.stat().st_mtime_ns)

    def finish(self, places: Sequence[int]) -> None:
        for place in places:  # of one that was finished when its command was killed they may be there still
            shutil.rmtree(parts_folder(self.folder, place, self.dataset.name(place)), ignore_errors=True)
        rows = [(place, self.dataset.name(place), self._files(place)[0]) for place in places]
        write_manifest(self.folder, rows)
        finish_film(self.dataset, self.folder, places)

    def _files(self, index: int) -> tuple[Path, Path]:
        """The class ids and the overlay."""
        label = self.work.label_file(index, picture_of(self.dataset, index))
        return label, label.with_name(f"{label.stem}.overlay.png")


def finish_film(dataset: ImageDataset, output: Path, places: Sequence[int]) -> None:
    """The predictions of a film as a film."""
    if isinstance(dataset, FilmDataset):
        write_film(output / f"{dataset.path.stem}.mp4", _beside(dataset, output, places), dataset.rate)


def _beside(dataset: FilmDataset, output: Path, places: Sequence[int]) -> Iterator[np.ndarray]:
    """Each frame and its overlay side by side, H x 2 W x 3."""
    for place in places:
        overlay = read_image(output / f"{file_stem(place, dataset.name(place))}.overlay.png")
        image = resize_image(dataset.image(place), (overlay.shape[-2], overlay.shape[-1]))
        yield torch.cat([image, overlay], dim=-1).permute(1, 2, 0).numpy()


def write_pictures(job: PictureJob, todo: Sequence[int], progress: Callable[[float, int], None]) -> CorpusResult:
    """The predictions of these images of a data set as pictures to look at: the next image is read and the last one
    written while the network looks at one. Those of the others are there already."""
    model, dataset, work = job.model, job.dataset, job.work
    done_before = len(dataset) - len(todo)
    result, left_out = CorpusResult(0, len(dataset), done_before), set()
    told = float(done_before)

    def tell(done: float) -> None:  # a large picture may have begun before the one in front of it is written
        nonlocal told
        told = max(told, done)
        progress(told, result.images)

    def compute(place: int, opened: OpenedImage | SegRefineryError) -> Callable[[], object]:
        if isinstance(opened, SegRefineryError):
            return leave_out(place, opened)
        if not result.reading:
            warn_of_reading(model, dataset, opened.picture.size)
            result.reading = reading_of(model, opened.picture.size)
        try:
            # The place in the data set: an image that is mended gets the number left for it.
            return work.compute(place, opened, lambda share: tell(begun[place] + share))
        except DataError as error:  # what is wrong in the middle of a large picture
            return leave_out(place, error)

    def leave_out(place: int, fault: SegRefineryError) -> Callable[[], object]:
        result.unreadable.append(fault)
        left_out.add(place)
        return lambda: None

    begun = {place: done_before + number for number, place in enumerate(todo)}
    for place in overlapped(todo, work.read, compute):
        tell(begun[place] + 1)
    kept = [place for place in range(len(dataset)) if place not in left_out]
    if not kept:
        raise nothing_read(job, result)
    job.finish(kept)
    result.written = len(kept)
    return result
