"""How masks are stored, and the data set that is a list of image and mask files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from segrefinery.data.decoding import (
    DataError,
    bands_in,
    decoded,
    ids_and_alpha,
    read_image,
    stored_size,
    unreadable_file,
    without_alpha,
)
from segrefinery.data.reading import Reading
from segrefinery.data.strips import Picture, open_picture
from segrefinery.labels import IGNORE, UNKNOWN, Color, LabelSpace, apply_table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image, its mask (None where there is none) and its name, which is unique in the data set."""

    name: str
    image: Path
    mask: Path | None = None


Transparent = Literal["ignore", "keep"]
"""Whether pixels of a mask whose alpha is 0 are ignored, or are what their numbers say; None refuses them."""


class Remedies(NamedTuple):
    """Where a data set says what its masks hold, in words."""

    ids: str
    """For ids that no class has."""
    transparent: str
    """For transparent pixels."""


SAVE_WITHOUT_ALPHA = "save it without alpha"
TRANSPARENT_CHOICES = (
    "transparent: ignore (these pixels are not learned) or transparent: keep (they are what the numbers beneath say)"
)
DECLARE_IN_DATASET_YAML = Remedies(
    "declare them under 'classes' (a plain list counts from 0), or under 'ignore' if they are not to be learned",
    f"{SAVE_WITHOUT_ALPHA}, or write in dataset.yaml {TRANSPARENT_CHOICES}",
)
WRITE_A_DATASET_YAML = Remedies(
    "describe these images and masks by a dataset.yaml of your own, and name it as folder:PATH",
    f"{SAVE_WITHOUT_ALPHA}, or describe these images and masks by a dataset.yaml of your own, named as folder:PATH, "
    f"with {TRANSPARENT_CHOICES}",
)
"""Of data sets in the layout in which they are published."""


class MaskEncoding(Protocol):
    """How the masks of a data set are stored."""

    def decode(self, sample: Sample) -> Tensor:
        """The mask of a sample as H x W int64 ids of the data set's space, 255 where ignored."""
        ...

    def key(self) -> str:
        """A text that changes whenever the mapping does."""
        ...


@dataclass(frozen=True)
class IdMasks:
    """Masks that store ids: index PNG (1 to 16 bit), palette PNG (its indices), or one channel of a colour PNG."""

    table: Tensor
    """File id -> id of the space, as ``labels.lookup_table`` makes it."""
    channel: int | None = None
    written: tuple[int, ...] | None = None
    """The id that stands for each class where several are read as it; None: the lowest."""
    transparent: Transparent | None = None
    remedies: Remedies = DECLARE_IN_DATASET_YAML

    def decode(self, sample: Sample) -> Tensor:
        assert sample.mask is not None
        return self.read(sample.mask)

    def read(self, path: Path, data: bytes | None = None) -> Tensor:
        """A mask file, or its content, as H x W ids of the space.

        Raises:
            DataError: an id is not declared, or pixels are transparent and nothing says what they show.
        """
        import torch

        ids, transparent = ids_and_alpha(path, self.channel, data)
        label = _settled(apply_table(ids, self.table), transparent, self.transparent, path, self.remedies)
        if int(label.min()) == UNKNOWN:
            unknown = torch.unique(ids.int()[label == UNKNOWN]).tolist()
            raise DataError(path, "mask", f"holds ids that no class has: {_few(unknown)}", self.remedies.ids)
        return label

    def key(self) -> str:
        table = hashlib.sha256(self.table.numpy().tobytes()).hexdigest()
        return f"ids {self.channel} {table}{self.transparent or ''}"


@dataclass(frozen=True)
class ColorMasks:
    """Masks that store each class as a colour."""

    colors: dict[Color, int]
    """RGB -> id of the space, or 255."""
    written: tuple[Color, ...] | None = None
    """The colour that stands for each class where several are read as it; None: the first."""
    transparent: Transparent | None = None

    def decode(self, sample: Sample) -> Tensor:
        import torch

        path = sample.mask
        assert path is not None
        colors, transparent = without_alpha(decoded(path, "mask", rgb=True))
        rgb = torch.from_numpy(colors).long()
        if rgb.ndim == 2 or rgb.shape[2] < 3 or int(rgb.max()) > 255:
            raise DataError(path, "mask", "is grey of 16 bits, but its data set declares colours", "give 'classes'")
        code = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        known = torch.tensor([r << 16 | g << 8 | b for r, g, b in self.colors])
        order = known.argsort()
        place = torch.searchsorted(known[order], code).clamp(max=len(known) - 1)
        label = torch.tensor(list(self.colors.values()))[order][place].where(known[order][place] == code, UNKNOWN)
        clear = None if transparent is None else torch.from_numpy(transparent)
        label = _settled(label, clear, self.transparent, path, DECLARE_IN_DATASET_YAML)
        strange = label == UNKNOWN
        if bool(strange.any()):
            unknown = [f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in torch.unique(code[strange]).tolist()]
            raise DataError(
                path,
                "mask",
                f"holds colours that no class has: {_few(unknown)}",
                "declare them under 'colors' or 'ignore', and save masks without smoothing or JPEG",
            )
        return label

    def key(self) -> str:
        return f"colors {sorted(self.colors.items())}{self.transparent or ''}"


def _settled(
    label: Tensor, transparent: Tensor | None, meaning: Transparent | None, path: Path, remedies: Remedies
) -> Tensor:
    """A label of which transparent pixels are what the data set says.

    Raises:
        DataError: it says nothing of them.
    """
    if transparent is None or meaning == "keep":
        return label
    if meaning is None:
        share = f"{100 * float(transparent.float().mean()):.3g} %"
        problem = f"{share} of its pixels are transparent, and nothing says what these show"
        raise DataError(path, "mask", problem, remedies.transparent)
    return label.masked_fill(transparent, IGNORE)


def _few(values: Sequence[object], most: int = 8) -> str:
    listed = ", ".join(str(v) for v in values[:most])
    return listed if len(values) <= most else f"{listed} and {len(values) - most} more"


Exif = Literal["follow", "ignore"]
"""Whether a JPEG is turned as its EXIF mark says; None turns it, and refuses masks that might lie otherwise."""


class FileDataset:
    """Images on disk, with or without masks. Nothing is kept in memory but the list of files."""

    def __init__(
        self,
        reference: str,
        samples: Sequence[Sample],
        space: LabelSpace | None = None,
        masks: MaskEncoding | None = None,
        reading: Reading | None = None,
        exif: Exif | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.reference = reference
        self.space = space
        self._samples = tuple(samples)
        self.masks = masks
        self._reading, self._exif = replace(reading or Reading(), upright=exif != "ignore"), exif
        self.notes = tuple(notes)
        self.has_labels = masks is not None and all(sample.mask for sample in samples)
        self._bare = tuple(sample for sample in samples if sample.mask and not sample.mask.exists())

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def bands(self) -> int:
        """How many bands its images have."""
        return self._reading.count

    @property
    def bare(self) -> tuple[Sample, ...]:
        """The images that have no mask, though the data set names masks."""
        return self._bare

    def mask_file(self) -> Path | None:
        """The first image's mask, or the file that describes it; None where there is none."""
        return self._samples[0].mask if self._samples else None

    def name(self, index: int) -> str:
        """The sample's name: its path inside the data set, without suffix."""
        return self._samples[index].name

    def files(self, index: int) -> tuple[Path, ...]:
        """The image file, and the mask file if there is one."""
        sample = self._samples[index]
        return (sample.image, sample.mask) if sample.mask else (sample.image,)

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return read_image(self._file(index), self._reading)

    def picture(self, index: int) -> Picture:
        """The image, from which rows can be had."""
        return open_picture(self._file(index), self._reading)

    def _file(self, index: int) -> Path:
        path = self._samples[index].image
        if self._reading.bands is not None:  # a band's number means the same only in files of as many bands
            self._refuse_other_bands(path)
        return path

    def _refuse_other_bands(self, path: Path) -> None:
        first = self._samples[0].image
        if path != first and (count := bands_in(path)) != (wanted := bands_in(first)):
            problem = f"has {count} bands, the first image {first.name} {wanted}"
            raise DataError(path, "image", problem, "give each kind of image a data set of its own")

    def label(self, index: int) -> Tensor:
        """int64, H x W, ids of ``space``, 255 where ignored; always of its image's size.

        Raises:
            DataError: the mask cannot be read, holds undeclared ids, or has another size than its image.
        """
        sample = self._samples[index]
        if sample.mask is None or self.masks is None:
            raise DataError(sample.image, "mask", "this image has no mask", "use it as a target only")
        label = self.masks.decode(sample)
        stored, mark = stored_size(sample.image)
        if mark > 1 and self._exif is None and tuple(label.shape) == stored:
            raise DataError(
                sample.mask,
                "mask",
                f"{sample.image.name} is to be turned by its EXIF mark, and nothing says whether this mask is too",
                "write in dataset.yaml exif: ignore (the mask lies on the pixels as stored) or exif: follow",
            )
        size = stored[::-1] if mark >= 5 and self._exif != "ignore" else stored
        if tuple(label.shape) != size:
            raise DataError(
                sample.mask,
                "mask",
                f"is {label.shape[1]} x {label.shape[0]}, its image {sample.image.name} {size[1]} x {size[0]} pixels",
                "export the mask at the image's size, or remove the pair",
            )
        return label

    def content_key(self) -> Iterator[str]:
        """Lines that change whenever a file, the split or the mapping does; they do not name where the files lie."""
        yield f"{self.space} {self.masks.key() if self.masks else 'no masks'} {self._reading} {self._exif}"
        bare = frozenset(self._bare)
        for sample in self._samples:
            for file in (sample.image, sample.mask):
                if file is not None and not (file is sample.mask and sample in bare):
                    try:
                        stat = file.stat()
                    except OSError as error:
                        raise unreadable_file(file, "path", error) from error
                    yield f"{sample.name} {file.name} {stat.st_size} {stat.st_mtime_ns}"
