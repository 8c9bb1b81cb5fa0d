"""Data sets by reference, and the views of them that training gets to see."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose
from segrefinery.data.annotations import ANNOTATIONS
from segrefinery.data.annotations.recognize import hint
from segrefinery.data.decoding import DataError
from segrefinery.data.discover import plain_images, refuse_archive
from segrefinery.data.files import FileDataset, Sample
from segrefinery.data.films import FilmDataset, film_named
from segrefinery.data.folder import open_folder
from segrefinery.data.layouts import LAYOUTS
from segrefinery.data.packed import open_hub, open_shards
from segrefinery.data.scenes import SceneDataset
from segrefinery.data.strips import Picture, WholePicture
from segrefinery.labels import IGNORE, LabelSpace, Merge, apply_table, lookup_table

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class ImageDataset(Protocol):
    """Images with names. ``space`` is None where no classes are known."""

    @property
    def reference(self) -> str: ...

    @property
    def space(self) -> LabelSpace | None: ...

    @property
    def has_labels(self) -> bool: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """A stable, unique id that looks like a path without suffix."""
        ...

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        ...


@runtime_checkable
class SegmentationDataset(ImageDataset, Protocol):
    """Images that may have labels (``has_labels``)."""

    def label(self, index: int) -> Tensor:
        """int64, H x W, ids of ``space``, 255 where ignored."""
        ...


class Part(NamedTuple):
    """One of several data sets that are used as one: which, how many images, its share of the draws (None: by its
    images), and the classes of the whole that its labels can be."""

    reference: str
    images: int
    share: int | None
    classes: tuple[str, ...] = ()


class _View:
    """Passes on all that does not touch labels."""

    def __init__(self, dataset: ImageDataset, space: LabelSpace | None) -> None:
        self._dataset = dataset
        self.reference = dataset.reference
        self.space = space
        self.notes, self.parts, self.bands = notes_of(dataset), parts_of(dataset), bands_of(dataset)
        self.bare = bare_of(dataset)
        self.sets = (dataset,)

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        return self._dataset.name(index)

    def image(self, index: int) -> Tensor:
        return self._dataset.image(index)

    def picture(self, index: int) -> Picture:
        return picture_of(self._dataset, index)

    def files(self, index: int) -> tuple[Path, ...]:
        return files_of(self._dataset, index)

    def content_key(self) -> Iterator[str]:
        yield f"{type(self).__name__} {self.space}"
        yield from content_key(self._dataset)


class Chosen(_View):
    """Some images of a labelled data set, by their places."""

    has_labels = True

    def __init__(self, dataset: SegmentationDataset, places: Sequence[int]) -> None:
        super().__init__(dataset, dataset.space)
        self._labels, self._places = dataset, tuple(places)
        self.parts = _parts_among(self.parts, self._places)

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        return super().name(self._places[index])

    def image(self, index: int) -> Tensor:
        return super().image(self._places[index])

    def picture(self, index: int) -> Picture:
        return super().picture(self._places[index])

    def label(self, index: int) -> Tensor:
        return self._labels.label(self._places[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return super().files(self._places[index])

    def content_key(self) -> Iterator[str]:
        yield str(self._places)
        yield from super().content_key()


def _parts_among(parts: Sequence[Part], places: Sequence[int]) -> tuple[Part, ...]:
    """The parts with those of their images alone that have these places."""
    kept, begin = [], 0
    for part in parts:
        images = sum(begin <= place < begin + part.images for place in places)
        begin += part.images
        if images:
            kept.append(part._replace(images=images))
    return tuple(kept)


class UnlabeledView(_View):
    """A data set as a target: it has no ``label``, whatever lies on disk."""

    has_labels = False

    def __init__(self, dataset: ImageDataset) -> None:
        super().__init__(dataset, dataset.space)
        if self.bare:
            count = f"{len(dataset) - len(self.bare)} of {len(dataset)}"
            self.notes += (f"only {count} images have a mask; masks of a target are not read",)
            self.bare = ()

    def files(self, index: int) -> tuple[Path, ...]:
        return super().files(index)[:1]


class Remapped(_View):
    """A labelled data set whose labels are ids of another space; pixels of classes it lacks are ignored.

    Attributes:
        lacks: the classes of the space that no label can be.

    Raises:
        SegRefineryError: the data set has no labels, or some of its images have none.
    """

    has_labels = True

    def __init__(self, dataset: SegmentationDataset, space: LabelSpace, merge: Merge | None = None) -> None:
        if dataset.space is None or not dataset.has_labels:
            raise SegRefineryError(f"{dataset.reference}: has no labels; use it as a target only, or name its masks.")
        refuse_bare(dataset)
        super().__init__(dataset, space)
        self._labels = dataset
        self._table = lookup_table({**dict(enumerate(dataset.space.classes)), IGNORE: None}, space, merge)
        landing = self._table[: dataset.space.num_classes].tolist()
        self._same = landing == list(range(dataset.space.num_classes))
        self.parts = tuple(_landed(part, dataset.space, landing, space) for part in self.parts)
        self.notes += _lacking(self.parts)
        self.lacks = tuple(name for place, name in enumerate(space.classes) if place not in landing)

    def label(self, index: int) -> Tensor:
        label = self._labels.label(index)
        return label if self._same else apply_table(label, self._table)

    def content_key(self) -> Iterator[str]:
        yield str(self._table[self._table >= 0].tolist())
        yield from super().content_key()


def _landed(part: Part, old: LabelSpace, landing: Sequence[int], new: LabelSpace) -> Part:
    """A part with its classes as another space calls them, where each class of the old one lands at an id or 255."""
    reached = {place for name, place in zip(old.classes, landing, strict=True) if name in part.classes}
    return part._replace(classes=tuple(name for place, name in enumerate(new.classes) if place in reached))


def _lacking(parts: Sequence[Part]) -> tuple[str, ...]:
    """What each part cannot show of the classes in use, though another can."""
    classes = dict.fromkeys(name for part in parts for name in part.classes)
    absent = {part.reference: [name for name in classes if name not in part.classes] for part in parts}
    return tuple(f"{name} lacks {', '.join(names)}, which others have" for name, names in absent.items() if names)


def bare_of(dataset: ImageDataset) -> tuple[Sample, ...]:
    """The images that have no mask, of a data set that names masks; a target may have some."""
    return getattr(dataset, "bare", ())


def refuse_bare(dataset: ImageDataset) -> None:
    """Refuse images without a mask where labels are needed.

    Raises:
        DataError: names the first mask that is missing.
    """
    if bare := bare_of(dataset):
        raise DataError(
            bare[0].mask or bare[0].image,
            "masks",
            f"{len(bare)} of {len(dataset)} images have no mask, this one is the first that is missing",
            "complete the masks, or remove the images that have none",
        )


def files_of(dataset: ImageDataset, index: int) -> tuple[Path, ...]:
    """The image file and, if the data set shows one, the mask file; empty for images that are not files."""
    files: Callable[[int], tuple[Path, ...]] | None = getattr(dataset, "files", None)
    return files(index) if files else ()


def picture_of(dataset: ImageDataset, index: int) -> Picture:
    """An image from which rows can be had; one that is no file is whole."""
    picture: Callable[[int], Picture] | None = getattr(dataset, "picture", None)
    if picture is not None:
        return picture(index)
    image = dataset.image(index)
    return WholePicture((image.shape[-2], image.shape[-1]), lambda: image)


def notes_of(dataset: ImageDataset) -> tuple[str, ...]:
    """What its user should know of how a data set was read: files that are left out, masks without an image."""
    return getattr(dataset, "notes", ())


def bands_of(dataset: ImageDataset) -> int:
    """How many bands the images have: three, red, green and blue, unless a ``dataset.yaml`` names others."""
    return getattr(dataset, "bands", 3)


def parts_of(dataset: ImageDataset) -> tuple[Part, ...]:
    """The data sets that a data set was joined of; none if it is one."""
    return getattr(dataset, "parts", ())


def content_key(dataset: ImageDataset) -> Iterator[str]:
    """Lines that identify the content of a data set.

    One that is not made of files is known by its reference, its classes and the pixels of its first and last sample.
    """
    declared: Callable[[], Iterator[str]] | None = getattr(dataset, "content_key", None)
    if declared:
        yield from declared()
    else:
        yield f"{dataset.reference} {len(dataset)} {dataset.space}"
        for index in (0, len(dataset) - 1):
            yield hashlib.sha256(dataset.image(index).numpy().tobytes()).hexdigest()
            if isinstance(dataset, SegmentationDataset) and dataset.has_labels:
                yield hashlib.sha256(dataset.label(index).numpy().tobytes()).hexdigest()


def open_dataset(reference: str) -> SegmentationDataset:
    """The data set that a reference names.

    * ``gta5:PATH``, ``synthia:PATH``, ``cityscapes:PATH@SPLIT``, ``acdc:PATH@SPLIT[/CONDITION]``,
      ``dark_zurich:PATH@SPLIT[/CONDITION]``: as published.
    * ``folder:PATH[@SPLIT]``: whatever its ``dataset.yaml`` describes (see ``folder.FolderSettings``).
    * ``coco:FILE.json``, ``labelme:FOLDER``, ``yolo:FOLDER[@SPLIT]``, ``cvat:annotations.xml[@SUBSET]``: regions that
      are painted (see ``annotations``).
    * ``shards:PATTERN.tar[,classes=SPACE]``, ``hfds:ORG/NAME[,image=COLUMN][,label=COLUMN][@SPLIT]``: see ``packed``.
    * ``scenes:LOOK[,count=N][,size=HxW][@SPLIT]``: the embedded street scenes; the split is ``train`` if none is named.
    * ``FILM.mp4[,every=10][,from=600][,to=1200]``: frames of a film, without labels (see ``films``).
    * a directory, a glob or an image file: images without labels.
    * ``A + B``, ``2 of A + 1 of B``: several of these as one (see ``joined``).

    Raises:
        SegRefineryError: the name, the path or the split does not exist, or nothing usable is there.
    """
    from segrefinery.data.joined import Joined, parts_named  # a data set of data sets

    named = parts_named(reference)
    if len(named) > 1:
        return Joined(reference, [open_dataset(name) for name, _ in named], [share for _, share in named])
    reference = named[0][0]
    if film := film_named(reference):
        return FilmDataset(reference, film)
    hit = re.match(r"([a-z][a-z0-9_]+):", reference)
    if hit is None or Path(reference).exists():
        refuse_archive(Path(reference).expanduser())
        with _named_right(Path(reference).expanduser()):
            samples, notes = plain_images(str(Path(reference).expanduser()))
        return FileDataset(reference, samples, notes=notes)
    kind, rest = hit[1], reference[hit.end() :]
    if not rest:
        raise DataError(reference, "reference", "names no path", f"write {kind}:PATH")
    if kind == "scenes":
        return _scenes(rest, reference)
    if kind in ("shards", "hfds"):
        with _named_right(Path(rest.partition(",")[0].partition("@")[0]).expanduser(), kind):
            return open_shards(rest, reference) if kind == "shards" else open_hub(*_path_and_split(rest), reference)
    others = dict.fromkeys(("scenes", "shards", "hfds"))
    opener = choose({**LAYOUTS, **ANNOTATIONS, "folder": open_folder, **others}, kind, "data set")
    assert opener is not None
    path, split = _path_and_split(rest)
    refuse_archive(Path(path).expanduser())
    with _named_right(Path(path).expanduser(), kind):
        return opener(Path(path).expanduser(), split, reference)


@contextmanager
def _named_right(path: Path, kind: str | None = None) -> Iterator[None]:
    """Adds to an error the line to write, where a path holds annotations of another kind than it was named as."""
    try:
        yield
    except SegRefineryError as error:
        # A format's own file that is not there may lie elsewhere or have another name.
        absent = isinstance(error, DataError) and not Path(error.file).exists()
        line = hint(path, None if absent else kind)
        if not line or line.partition(",")[0] in str(error):  # what it says already needs no second time
            raise
        if isinstance(error, DataError):
            raise DataError(error.file, error.field, error.problem, f"{error.remedy}, or {line}") from error
        raise SegRefineryError(f"{str(error).rstrip('.')}; or {line}") from error


def _path_and_split(text: str) -> tuple[str, str | None]:
    """``PATH@SPLIT``; an @ in an existing path is not taken for a split."""
    path, mark, split = text.rpartition("@")
    if not mark or not path or Path(text).expanduser().exists():
        return text, None
    return path, split or None


def _scenes(text: str, reference: str) -> SegmentationDataset:
    described, _, split = text.partition("@")
    look, *options = described.split(",")
    count: int | None = None
    size: tuple[int, int] | None = None
    for option in options:
        if hit := re.fullmatch(r"count=([1-9]\d*)", option):
            count = int(hit[1])
        elif hit := re.fullmatch(r"size=([1-9]\d*)x([1-9]\d*)", option):
            size = int(hit[1]), int(hit[2])
        else:
            raise DataError(
                reference,
                "reference",
                f"cannot read {option!r}",
                "write scenes:LOOK,count=40,size=96x192@SPLIT (height x width)",
            )
    scenes = SceneDataset(look, split or "train", count, size)
    scenes.reference = reference
    return scenes
