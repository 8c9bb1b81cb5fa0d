"""Decoded images and labels that are kept: in memory, or on disk, where parts of them can be read."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import cache_folder, whole_file
from segrefinery.data.scan import fingerprint
from segrefinery.data.transforms import DataSettings, evaluation_size, resize_image, resize_map

MOST_GIB = 100.0
"""GiB of decoded pictures that are kept on disk, unless ``SEGREFINERY_CACHE_GIB`` says otherwise."""
_SWITCH = "SEGREFINERY_CACHE_GIB"
_IN_USE = 86_400
"""Seconds for which what a run opened, or added to, is not removed for another one's sake."""


class Cached:
    """A data set whose decoded images, resized to ``short_side``, are kept as uint8 once they have been read.

    They are held in memory, or with ``cache: disk`` in files below ``SEGREFINERY_CACHE`` that are mapped into memory,
    for any number of processes and until the data change, or others need the room (see ``make_room``).

    Forked workers (on Linux) share what was read before they started, so the loader fills the cache before it starts
    any; elsewhere each gets a copy, so there ``workers: 0`` suits a cache.
    """

    def __init__(self, dataset: Any, settings: DataSettings) -> None:
        self.dataset, self.settings = dataset, settings
        self.has_labels = has_labels(dataset)
        self._images: dict[int, Tensor] = {}
        self._labels: dict[int, Tensor] = {}
        self._folder = _folder_for(dataset, settings) if settings.cache == "disk" else None
        if self._folder is not None:
            make_room(self._folder)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def space(self) -> Any:
        """The label space of the data set."""
        return self.dataset.space

    def name(self, index: int) -> str:
        """The name of an image."""
        return self.dataset.name(index)

    def image(self, index: int) -> Tensor:
        """The resized image, uint8 3 x h x w."""
        return self._kept(self._images, index, "image", self._resized_image).permute(2, 0, 1)

    def label(self, index: int) -> Tensor:
        """The resized label, uint8 h x w (255 ignored)."""
        return self._kept(self._labels, index, "label", self._resized_label)

    def _resized_image(self, index: int) -> Tensor:
        """h x w x bands, as decoders give it: torch resizes that several times as fast."""
        image = self.dataset.image(index)
        return resize_image(image, evaluation_size(image.shape[-2:], self.settings)).permute(1, 2, 0).contiguous()

    def _resized_label(self, index: int) -> Tensor:
        label = self.dataset.label(index)
        return resize_map(label, evaluation_size(label.shape[-2:], self.settings)).to(torch.uint8)

    def _kept(self, held: dict[int, Tensor], index: int, kind: str, make: Callable[[int], Tensor]) -> Tensor:
        if self._folder is not None:
            return _mapped(self._folder / f"{index:06d}.{kind}.npy", lambda: make(index))
        if index not in held:
            held[index] = make(index)
        return held[index]

    def fill(self, threads: int = 2) -> None:
        """Read everything that has not been read yet."""
        with ThreadPoolExecutor(max(1, threads)) as pool:
            list(pool.map(self.image, range(len(self))))
            if self.has_labels:
                list(pool.map(self.label, range(len(self))))


def _folder_for(dataset: Any, settings: DataSettings) -> Path:
    """Where the images and labels of a data set are kept; another one once a file, the classes or the size change."""
    told = f"{fingerprint(dataset)} {settings.short_side} {settings.evaluation_short_side} {has_labels(dataset)}"
    return cache_folder() / "decoded" / hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def make_room(folder: Path) -> None:
    """Mark the pictures of a data set as used, and remove the folders beside it that were used longest ago, until all
    hold at most ``MOST_GIB``.

    Raises:
        SegRefineryError: ``SEGREFINERY_CACHE_GIB`` is no number.
    """
    most, held, now = _most_bytes(), 0, time.time()
    with suppress(OSError):  # who writes there says what is wrong with the folder; another run may tidy up too
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        used = {each: each.stat().st_mtime for each in folder.parent.iterdir() if each.is_dir()}
        for each in sorted(used, key=used.__getitem__, reverse=True):
            held += sum(file.stat().st_size for file in each.iterdir())
            if held > most and now - used[each] > _IN_USE:
                shutil.rmtree(each, ignore_errors=True)


def _most_bytes() -> float:
    text = os.environ.get(_SWITCH) or str(MOST_GIB)
    try:
        return float(text) * 2**30
    except ValueError:
        raise SegRefineryError(f"{_SWITCH} is {text!r}: write a number of GiB, for instance {MOST_GIB:g}") from None


def _mapped(file: Path, make: Callable[[], Tensor]) -> Tensor:
    """What a file holds, of which only what is looked at is read; made if it is not there or is damaged.

    Raises:
        SegRefineryError: it cannot be written.
    """
    try:
        return torch.from_numpy(np.load(file, mmap_mode="c"))
    except (OSError, ValueError, EOFError):
        made = make()
    with whole_file(file, durable=False) as opened:
        np.save(opened, made.numpy())
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def with_cache(dataset: Any, settings: DataSettings) -> Any:
    """The data set, cached if the settings ask for it."""
    return Cached(dataset, settings) if settings.cache else dataset


def has_labels(dataset: Any) -> bool:
    """Whether a data set offers reference labels."""
    return bool(getattr(dataset, "has_labels", hasattr(dataset, "label")))
