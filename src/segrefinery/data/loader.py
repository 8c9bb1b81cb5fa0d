"""Batches: endless random crops for training, and whole images in order for everything else."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.data.batch import LabeledBatch, PseudoLabeledBatch, TranslatedBatch, UnlabeledBatch
from segrefinery.data.cached import Cached, has_labels
from segrefinery.data.datasets import picture_of
from segrefinery.data.sampling import Draw, Sampler
from segrefinery.data.strips import IN_PARTS, Picture, WholePicture
from segrefinery.data.transforms import (
    DataSettings,
    TrainTransform,
    View,
    resize_for_evaluation,
    resize_map,
    size_of,
)

_Sample = tuple[int, View] | SegRefineryError
Batch = LabeledBatch | UnlabeledBatch | PseudoLabeledBatch


class Images(Protocol):
    """What the loader asks of a data set.

    A labelled one also has ``label(i)`` (integer H x W, 255 ignored); one with our own teacher's labels has
    ``pseudo(i)`` (label H x W and weight H x W, of any size) and is never asked for anything else. A labelled one with
    translations has ``translated(i)`` (uint8 3 x H x W, of the image's size), too.
    """

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """uint8 3 x H x W."""
        ...


class WithTranslations:
    """A labelled data set for training that shows each image's translation beside it.

    Args:
        source: the labelled images. translations: of the same images in the same order and, image by image, of the same
            size; so both are ``Cached``, with the same settings, or neither is.
    """

    has_labels = True

    def __init__(self, source: Any, translations: Any) -> None:
        self.source, self.translations = source, translations

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return self.source.image(index)

    def label(self, index: int) -> Tensor:
        """Integer H x W, 255 where ignored."""
        return self.source.label(index)

    def translated(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return self.translations.image(index)

    def fill(self, threads: int) -> None:
        """Read what is to be held in memory and has not been read yet."""
        for part in (self.source, self.translations):
            if isinstance(part, Cached):
                part.fill(threads)


def training_batches(
    dataset: Any,
    settings: DataSettings,
    sampler: Sampler,
    *,
    first_step: int = 0,
    steps: int,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
) -> Iterator[Batch]:
    """The batches of optimizer steps ``first_step`` to ``first_step + steps - 1``, augmented.

    Step t takes the positions t * B to (t + 1) * B - 1 of the sampler, B being ``settings.batch``; rank r takes the
    r-th of ``world`` equal, contiguous parts of them. What a step sees depends on nothing else: not on the number of
    workers, not on where a run was resumed.

    The data set decides the kind of batch: with ``pseudo`` PseudoLabeledBatch, with reference labels LabeledBatch, with
    ``translated`` too TranslatedBatch, else UnlabeledBatch. Only images with reference labels get the colour jitter and
    blur of the settings, their translations do not; the teacher sees a clean target image, and its strong view is drawn
    in the training step.

    Args:
        workers: processes that read ahead; None = ``settings.workers``.

    Raises:
        SegRefineryError: a batch that cannot be shared evenly, or whatever a data set says of an image.
    """
    if settings.batch % world:
        raise SegRefineryError(
            f"batch {settings.batch} cannot be shared by {world} processes; make it a multiple of {world}."
        )
    share = settings.batch // world
    starts = range(first_step * settings.batch, (first_step + steps) * settings.batch, settings.batch)
    plan = _Plan(starts, range(rank * share, (rank + 1) * share), sampler)
    workers = settings.workers if workers is None else workers
    return _read(_Crops(dataset, settings), workers=workers, batch_sampler=plan, collate_fn=_collate)


class WholeImages:
    """Whole, un-augmented images in order, at the size they are evaluated at; may be walked as often as one likes.

    Yields LabeledBatch where the data set has reference labels, else UnlabeledBatch. A batch holds neighbours of one
    size: where sizes change it ends early. Its memory does not grow with the number of images.
    """

    def __init__(
        self,
        dataset: Any,
        settings: DataSettings,
        batch: int = 1,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
        resize_labels: bool = True,
    ) -> None:
        """
        Args:
            batch: images a batch, at most.
            rank, world: take every ``world``-th image, starting with number ``rank``.
            workers: processes that read ahead; None = ``settings.workers``.
            resize_labels: False keeps labels at their own size (evaluation at the reference's resolution).
        """
        self.images = len(range(rank, len(dataset), world))
        self.batch, self.rank, self.world = batch, rank, world
        self.dataset, self.settings = dataset, settings
        self.workers = settings.workers if workers is None else workers
        self.resize_labels = resize_labels

    def __iter__(self) -> Iterator[Any]:
        group: list[tuple[int, View]] = []
        samples = _Whole(self.dataset, self.settings, self.resize_labels)
        places = range(self.rank, len(self.dataset), self.world)
        for index, view in _read(samples, workers=self.workers, batch_size=None, sampler=places):
            if group and (len(group) == self.batch or not _alike(group[-1][1], view)):
                yield _stack(group)
                group = []
            group.append((index, view))
        if group:
            yield _stack(group)


class _Plan:
    """The draws of every step, made when they are asked for: of the batch that starts at each of ``starts``, the
    ``places`` of this rank."""

    def __init__(self, starts: range, places: range, sampler: Sampler) -> None:
        self.starts, self.places, self.sampler = starts, places, sampler

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Draw]]:
        return ([self.sampler.draw(start + place) for place in self.places] for start in self.starts)


class _Crops(TorchDataset):
    """Augmented crops by draw."""

    def __init__(self, dataset: Any, settings: DataSettings) -> None:
        self.dataset, self.pseudo, self.labeled = dataset, hasattr(dataset, "pseudo"), has_labels(dataset)
        self.translated = hasattr(dataset, "translated")
        if self.pseudo or not self.labeled:
            settings = settings.model_copy(update={"photometric": 0.0, "blur": 0.0})
        self.transform = TrainTransform(settings)

    def __getitem__(self, draw: Draw) -> _Sample:
        return _safely(self._crop, draw)

    def _crop(self, draw: Draw) -> tuple[int, View]:
        image, label, weight = self._image(draw.index), None, None
        if self.pseudo:
            label, weight = (resize_map(each, size_of(image)) for each in self.dataset.pseudo(draw.index))
        elif self.labeled:
            label = self.dataset.label(draw.index)
        translated = self.dataset.translated(draw.index) if self.translated else None
        random = generator(draw.seed, "crop")
        return draw.index, self.transform(image, label, random, draw.wanted_class, weight, translated)

    def _image(self, index: int) -> Tensor | Picture:
        """The image, or a large picture of which parts can be read."""
        picture = picture_of(self.dataset, index)
        if isinstance(picture, WholePicture):
            return picture.image
        large = picture.size[0] * picture.size[1] > IN_PARTS
        return picture if large else self.dataset.image(index)


class _Whole(TorchDataset):
    """Whole images by index."""

    def __init__(self, dataset: Any, settings: DataSettings, resize_labels: bool) -> None:
        self.dataset, self.settings, self.resize_labels = dataset, settings, resize_labels
        self.labeled = has_labels(dataset)

    def __getitem__(self, index: int) -> _Sample:
        return _safely(self._whole, index)

    def _whole(self, index: int) -> tuple[int, View]:
        image = resize_for_evaluation(self.dataset.image(index), self.settings)
        if not self.labeled:
            return index, View(image)
        label = self.dataset.label(index)
        return index, View(image, (resize_map(label, image.shape[-2:]) if self.resize_labels else label).long())


def _safely(read: Callable[[Any], tuple[int, View]], what: Any) -> _Sample:
    """Read on one thread, so that sums round alike in a worker and in the main process. A user's mistake comes back as
    a value: raised in a worker it would reach the user wrapped in a traceback."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return read(what)
    except SegRefineryError as error:
        return error
    finally:
        torch.set_num_threads(threads)


def _read(samples: _Crops | _Whole, *, workers: int, **options: Any) -> Iterator[Any]:
    """What torch's loader yields, with errors that travelled as values raised. It gets a generator of its own, so that
    starting it does not move the global one. Workers are forked where that is possible, so that they share a cache."""
    if workers:
        if isinstance(samples.dataset, Cached | WithTranslations):
            samples.dataset.fill(workers)
        if "fork" in multiprocessing.get_all_start_methods() and sys.platform == "linux":
            options["multiprocessing_context"] = "fork"
    pinned = torch.cuda.is_available()
    for item in DataLoader(samples, num_workers=workers, generator=torch.Generator(), pin_memory=pinned, **options):
        if isinstance(item, SegRefineryError):
            raise item
        yield item


def _collate(read: list[_Sample]) -> Batch | SegRefineryError:
    """One batch of what was read, or the first error in it."""
    for item in read:
        if isinstance(item, SegRefineryError):
            return item
    return _stack([item for item in read if not isinstance(item, SegRefineryError)])


def _stack(read: list[tuple[int, View]]) -> Batch:
    """The kind of batch follows from what there is."""
    views = [view for _, view in read]
    image, index = torch.stack([view.image for view in views]), torch.tensor([index for index, _ in read])
    labels = [view.label for view in views if view.label is not None]
    weights = [view.weight for view in views if view.weight is not None]
    translated = [view.translated for view in views if view.translated is not None]
    if weights:
        return PseudoLabeledBatch(image, torch.stack(labels), torch.stack(weights), index)
    if translated:
        return TranslatedBatch(image, torch.stack(labels), index, torch.stack(translated))
    return LabeledBatch(image, torch.stack(labels), index) if labels else UnlabeledBatch(image, index)


def _alike(one: View, other: View) -> bool:
    """Whether two views fit into one batch."""
    if one.label is not None and other.label is not None and one.label.shape != other.label.shape:
        return False
    return one.image.shape == other.image.shape
