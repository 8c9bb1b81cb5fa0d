"""Decoding of image and mask files, and the data set that is a list of such files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from segrefinery.core.errors import SegRefineryError
from segrefinery.labels import UNKNOWN, Color, LabelSpace, apply_table

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PNG = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3


class DataError(SegRefineryError):
    """Something wrong with one file: which file, which part of it, what, and the remedy."""

    def __init__(self, file: Path | str, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{file}: {field}: {problem}; {remedy}.")
        self.file, self.field, self.problem, self.remedy = str(file), field, problem, remedy

    def __reduce__(self):
        # So that it survives the way from a loading process to ours.
        return DataError, (self.file, self.field, self.problem, self.remedy)


def read_image(path: Path) -> Tensor:
    """An image file as uint8 RGB, 3 x H x W: grey repeated, alpha dropped, 16 bits scaled to 8, JPEG upright."""
    image = _decode(path, _read(path, "image"), ImageReadMode.RGB, "image")
    if image.dtype == torch.uint16:
        image = (image.int() + 128).div(257, rounding_mode="floor").to(torch.uint8)
    return image


def read_ids(path: Path, channel: int | None = None) -> Tensor:
    """The numbers a mask file stores, H x W uint8 or uint16: grey values, palette indices, or a colour PNG's channel.

    PNGs of fewer than 8 bits a pixel give the stored numbers too (0 and 1, not 0 and 255). Without ``channel``, a
    colour PNG must be grey in truth.
    """
    data = _read(path, "mask")
    if data[:8] != _PNG:
        raise DataError(path, "mask", "not a PNG file", "save masks as PNG; other formats change the ids")
    if len(data) < 26:
        raise DataError(path, "mask", "truncated or damaged", "copy it again or remove the pair")
    bits, kind = data[24], data[25]
    if kind == _PALETTE and bits < 8:
        # torchvision returns these still packed, several pixels a byte.
        return _palette_indices(path)
    mask = _decode(path, data, ImageReadMode.UNCHANGED, "mask")
    if channel is None and len(mask) >= 3 and not (mask[0].equal(mask[1]) and mask[0].equal(mask[2])):
        raise DataError(
            path, "mask", "is a colour picture, but its data set declares ids", "give 'colors' or 'labelmap'"
        )
    ids = mask[channel or 0]
    # torchvision widens grey of 1, 2 and 4 bits to the range 0..255.
    return ids // (255 // (2**bits - 1)) if kind == _GRAY and bits < 8 else ids


def image_size(path: Path) -> tuple[int, int]:
    """Height and width as ``read_image`` gives them, read from the header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # MPO: what phones write, a JPEG with further pictures behind the first
            turned = image.format in ("JPEG", "MPO") and image.getexif().get(0x0112, 1) >= 5
    except Exception as error:
        raise _undecodable(path, "image", error) from error
    return (width, height) if turned else (height, width)


def _read(path: Path, field: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            path, field, f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from error
    if not data:
        raise DataError(path, field, "the file is empty", "copy it again or remove it")
    return data


def _unreadable(path: Path, field: str, error: OSError) -> DataError:
    return DataError(path, field, f"cannot be read ({error.strerror})", "check the path and its permissions")


def _decode(path: Path, data: bytes, mode: ImageReadMode, field: str) -> Tensor:
    try:
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = decode_image(buffer, mode, apply_exif_orientation=data[:2] == b"\xff\xd8")
    except RuntimeError as error:
        raise _undecodable(path, field, error) from error
    if image.ndim != 3:  # a GIF, whatever it is called
        raise DataError(path, field, f"is an animation of {len(image)} pictures", "save each as a PNG of its own")
    return image


def _palette_indices(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image))
    except Exception as error:
        raise _undecodable(path, "mask", error) from error


def _undecodable(path: Path, field: str, error: Exception) -> DataError:
    cut = re.search(r"truncated|incomplete|corrupted", str(error), re.IGNORECASE)
    what = "truncated or damaged" if cut else "not an image that can be decoded (PNG, JPEG, WebP)"
    return DataError(path, field, what, "copy it again, convert it or remove it")


class MaskEncoding(Protocol):
    """How the masks of a data set are stored."""

    def decode(self, path: Path) -> Tensor:
        """A mask file as H x W int64 ids of the data set's space, 255 where ignored."""
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

    def decode(self, path: Path) -> Tensor:
        ids = read_ids(path, self.channel)
        label = apply_table(ids, self.table)
        if int(label.min()) == UNKNOWN:
            unknown = torch.unique(ids.int()[label == UNKNOWN]).tolist()
            raise DataError(
                path,
                "mask",
                f"holds ids that no class has: {_few(unknown)}",
                "declare them under 'classes', or under 'ignore' if they are not to be learned",
            )
        return label

    def key(self) -> str:
        return f"ids {self.channel} {hashlib.sha256(self.table.numpy().tobytes()).hexdigest()}"


@dataclass(frozen=True)
class ColorMasks:
    """Masks that store each class as a colour."""

    colors: dict[Color, int]
    """RGB -> id of the space, or 255."""

    def decode(self, path: Path) -> Tensor:
        rgb = _decode(path, _read(path, "mask"), ImageReadMode.RGB, "mask").long()
        code = rgb[0] << 16 | rgb[1] << 8 | rgb[2]
        known = torch.tensor([r << 16 | g << 8 | b for r, g, b in self.colors])
        order = known.argsort()
        place = torch.searchsorted(known[order], code).clamp(max=len(known) - 1)
        label = torch.tensor(list(self.colors.values()))[order][place]
        strange = known[order][place] != code
        if bool(strange.any()):
            colors = [f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in torch.unique(code[strange]).tolist()]
            raise DataError(
                path,
                "mask",
                f"holds colours that no class has: {_few(colors)}",
                "declare them under 'colors' or 'ignore', and save masks without smoothing or JPEG",
            )
        return label

    def key(self) -> str:
        return f"colors {sorted(self.colors.items())}"


def _few(values: Sequence[object], most: int = 8) -> str:
    listed = ", ".join(str(v) for v in values[:most])
    return listed if len(values) <= most else f"{listed} and {len(values) - most} more"


@dataclass(frozen=True)
class Sample:
    """One image, its mask (None where there is none) and its name, which is unique in the data set."""

    name: str
    image: Path
    mask: Path | None = None


class FileDataset:
    """Images on disk, with or without masks. Nothing is kept in memory but the list of files."""

    def __init__(
        self,
        reference: str,
        samples: Sequence[Sample],
        space: LabelSpace | None = None,
        masks: MaskEncoding | None = None,
    ) -> None:
        self.reference = reference
        self.space = space
        self._samples = tuple(samples)
        self._masks = masks
        self.has_labels = masks is not None and all(sample.mask for sample in samples)

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """The sample's name: its path inside the data set, without suffix."""
        return self._samples[index].name

    def files(self, index: int) -> tuple[Path, ...]:
        """The image file, and the mask file if there is one."""
        sample = self._samples[index]
        return (sample.image, sample.mask) if sample.mask else (sample.image,)

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return read_image(self._samples[index].image)

    def label(self, index: int) -> Tensor:
        """int64, H x W, ids of ``space``, 255 where ignored; always of its image's size.

        Raises:
            DataError: the mask cannot be read, holds undeclared ids, or has another size than its image.
        """
        sample = self._samples[index]
        if sample.mask is None or self._masks is None:
            raise DataError(sample.image, "mask", "this image has no mask", "use it as a target only")
        label = self._masks.decode(sample.mask)
        size = image_size(sample.image)
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
        yield f"{self.space} {self._masks.key() if self._masks else 'no masks'}"
        for sample in self._samples:
            for file in (sample.image, sample.mask):
                if file is not None:
                    try:
                        stat = file.stat()
                    except OSError as error:
                        raise _unreadable(file, "path", error) from error
                    yield f"{sample.name} {file.name} {stat.st_size} {stat.st_mtime_ns}"
