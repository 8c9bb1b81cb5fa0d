"""Source images that another tool has translated into the style of the target: a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segrefinery.data.datasets import SegmentationDataset, bare_of, content_key, files_of, parts_of
from segrefinery.data.decoding import DataError, image_size, read_image

if TYPE_CHECKING:
    from torch import Tensor


class TranslatedFolder:
    """A labelled data set whose images come from a folder of translations; names and labels stay its own.

    An image's translation has its name (the path inside the data set, without suffix), or the last part of it, with
    any suffix that images have.

    Args:
        field: of the recipe that names the folder, for errors.

    Raises:
        DataError: the folder is missing, or translations are missing, ambiguous, unreadable or of another size than
            their image; the first few are named.
    """

    has_labels = True

    def __init__(self, source: SegmentationDataset, folder: Path | str, field: str = "translated") -> None:
        self.source, self.folder = source, Path(folder).expanduser()
        self.reference, self.space = f"{source.reference} translated", source.space
        self.parts, self.bare = parts_of(source), bare_of(source)
        self._paths = _matched(source, self.folder, field)

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        return read_image(self._paths[index])

    def label(self, index: int) -> Tensor:
        return self.source.label(index)

    def files(self, index: int) -> tuple[Path, ...]:
        """The translation and the files of the image it was made from."""
        return (self._paths[index], *files_of(self.source, index))

    def content_key(self) -> Iterator[str]:
        """Lines that change whenever a translation or the source does."""
        yield from content_key(self.source)
        for index, path in enumerate(self._paths):
            stat = path.stat()
            yield f"{self.name(index)} {path.name} {stat.st_size} {stat.st_mtime_ns}"


_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def _matched(source: SegmentationDataset, folder: Path, field: str) -> list[Path]:
    """The translation of every image, checked."""
    if not folder.is_dir():
        raise DataError(folder, field, "is not a folder", "give the folder that the translated images lie in")
    by_name: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            inside = path.relative_to(folder).with_suffix("").as_posix()
            for key in {inside, path.stem}:
                by_name.setdefault(key, []).append(path)
    paths: list[Path] = []
    missing: list[str] = []
    ambiguous: list[str] = []
    resized: list[str] = []
    for index in range(len(source)):
        name = source.name(index)
        translations = by_name.get(name) or by_name.get(name.rsplit("/", 1)[-1]) or []
        if len(translations) != 1:
            (ambiguous if translations else missing).append(name)
            continue
        paths.append(translations[0])
        size, wanted = image_size(translations[0]), _size(source, index)
        if size != wanted:
            resized.append(f"{name} ({size[1]} x {size[0]} instead of {wanted[1]} x {wanted[0]})")
    for names, problem, remedy in (
        (missing, "have no translation", "translate them too, and keep the file names"),
        (ambiguous, "have several translations", "keep one file of each name"),
        (resized, "were translated at another size", "resize the translations to their images' size"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise DataError(folder, field, f"{len(names)} of {len(source)} images {problem}: {shown}", remedy)
    return paths


def _size(source: SegmentationDataset, index: int) -> tuple[int, int]:
    files = files_of(source, index)
    if files:
        return image_size(files[0])
    height, width = source.image(index).shape[-2:]
    return height, width
