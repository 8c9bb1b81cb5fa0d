"""Passes over a whole data set: a few images at a time, and kept in a cache until a file changes."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import cache_folder, write_bytes
from segrefinery.core.processor import usable_cores
from segrefinery.data.datasets import ImageDataset, SegmentationDataset, content_key, files_of
from segrefinery.data.decoding import DataError

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called after every image with the images done and the images in all."""
MOST_THREADS = 8
_RULES = 2
"""Counts up when files are refused that were read before: what was found then is void."""


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used: which, which part of it, what is wrong, and the remedy."""

    file: str
    field: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Scan:
    """What a full decode of a data set found.

    ``sizes`` are ``WIDTHxHEIGHT`` -> images; ``pixels`` is one count for each class of the data set's space, and last
    the ignored pixels (empty without labels).
    """

    images: int
    sizes: dict[str, int]
    pixels: list[int]
    faults: list[Fault]


def fingerprint(dataset: ImageDataset) -> str:
    """32 hexadecimal digits that change with the files' names, sizes or times, the split or the class mapping."""
    digest = hashlib.blake2b(digest_size=16)
    for line in content_key(dataset):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small tensors one after the other: several threads only wait for each other, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def class_pixel_counts(dataset: SegmentationDataset, progress: Progress | None = None) -> Tensor:
    """How many pixels each class has in each image, N x C int64; ignored pixels are not counted.

    One label a thread is in memory at a time. The result is cached under the data set's ``fingerprint``.

    Raises:
        SegRefineryError: the data set has no labels, or a mask is wrong.
    """
    if dataset.space is None or not dataset.has_labels:
        raise SegRefineryError(f"{dataset.reference}: has no labels, so its classes cannot be counted; name its masks.")
    classes = dataset.space.num_classes
    file = cache_folder() / f"counts-{_RULES}-{fingerprint(dataset)}.json"
    rows = _load(file)
    if rows is None:
        rows = []
        with closing(_each(dataset, lambda index: _count(dataset.label(index), classes)[:-1].tolist())) as counted:
            for row in counted:
                rows.append(row)
                if progress:
                    progress(len(rows), len(dataset))
        _store(file, rows)
    elif progress:
        progress(len(dataset), len(dataset))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(dataset), classes)


@_one_thread()
def scan(dataset: ImageDataset, progress: Progress | None = None) -> Scan:
    """Decode every image, and every mask if the data set shows any; collect faults instead of stopping at the first.

    Files are read by a few threads, each with one image in memory. Cached under the data set's ``fingerprint`` once
    there is no fault.
    """
    file = _scan_file(dataset)
    cached = _load(file) if file else None
    if cached is not None:
        if progress:
            progress(len(dataset), len(dataset))
        return Scan(**cached)
    classes = dataset.space.num_classes if dataset.space is not None and dataset.has_labels else 0
    pixels = torch.zeros(classes + 1, dtype=torch.int64)
    sizes: dict[str, int] = {}
    faults: list[Fault] = []
    labelled = dataset if isinstance(dataset, SegmentationDataset) and classes else None

    def look(index: int) -> tuple[str | None, Tensor | None, Fault | None]:
        """Its size, the pixels of each class, and what is wrong."""
        size = None
        try:
            height, width = dataset.image(index).shape[-2:]
            size = f"{width}x{height}"
            return size, None if labelled is None else _count(labelled.label(index), classes), None
        except SegRefineryError as error:
            return size, None, _fault(dataset, index, error)

    with closing(_each(dataset, look)) as looks:
        for done, (size, counts, fault) in enumerate(looks, 1):
            if size is not None:
                sizes[size] = sizes.get(size, 0) + 1
            if counts is not None:
                pixels += counts
            if fault is not None:
                faults.append(fault)
            if progress:
                progress(done, len(dataset))
    result = Scan(len(dataset), sizes, pixels.tolist() if classes else [], faults)
    if file and not faults:
        _store(file, asdict(result))
    return result


@_one_thread()
def pixel_digests(dataset: ImageDataset, progress: Progress | None = None) -> list[str]:
    """What each image shows, as 32 hexadecimal digits of its decoded pixels: equal for equal pictures whatever their
    files are called and however they are stored. Cached under the data set's ``fingerprint``."""
    file = cache_folder() / f"digests-{fingerprint(dataset)}.json"
    per_image = _load(file)
    if per_image is None:
        per_image = []
        with closing(_each(dataset, lambda index: _digest(dataset.image(index)))) as digests:
            for digest in digests:
                per_image.append(digest)
                if progress:
                    progress(len(per_image), len(dataset))
        _store(file, per_image)
    return per_image


def _digest(image: Tensor) -> str:
    pixels = image.contiguous().numpy()
    return hashlib.blake2b(f"{tuple(image.shape)}".encode() + pixels.tobytes(), digest_size=16).hexdigest()


def _each(dataset: ImageDataset, look: Callable[[int], T]) -> Generator[T]:
    """``look(index)`` of every image, in order. Close it: what has been begun ahead then ends, and no more begins."""
    # Only decoding files releases the GIL; and who generates images need not be ready for threads.
    threads = min(MOST_THREADS, usable_cores()) if len(dataset) and files_of(dataset, 0) else 1
    if threads == 1:
        yield from map(look, range(len(dataset)))
        return
    pool = ThreadPoolExecutor(threads, "scan")
    ahead: deque[Future[T]] = deque()
    try:
        for index in range(len(dataset)):
            ahead.append(pool.submit(look, index))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _count(label: Tensor, classes: int) -> Tensor:
    """Pixels of each class, and last of all that is ignored."""
    return torch.bincount(label.clamp(max=classes).flatten(), minlength=classes + 1)


def _fault(dataset: ImageDataset, index: int, error: SegRefineryError) -> Fault:
    if isinstance(error, DataError):
        return Fault(error.file, error.field, error.problem, error.remedy)
    files = files_of(dataset, index)
    return Fault(str(files[0]) if files else dataset.name(index), "image", str(error), "repair or remove it")


def _scan_file(dataset: ImageDataset) -> Path | None:
    # A file that has gone will be among the faults; it must not keep us from looking at the others.
    try:
        return cache_folder() / f"scan-{_RULES}-{fingerprint(dataset)}.json"
    except SegRefineryError:
        return None


def _load(file: Path):
    """What the cache holds; None if nothing that can be read."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _store(file: Path, content: object) -> None:
    """Write the whole file or nothing; a cache that cannot be written only costs time."""
    with suppress(SegRefineryError):
        write_bytes(file, json.dumps(content).encode(), durable=False)
