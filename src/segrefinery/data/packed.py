"""Data sets whose images are no files: shards of WebDataset (``shards:``) and data sets of Hugging Face (``hfds:``)."""

from __future__ import annotations

import glob
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import readable
from segrefinery.core.hub import from_cache_alone, why_unreachable
from segrefinery.core.lazy import optional
from segrefinery.data.decoding import DataError, image_size, read_image, unreadable_file
from segrefinery.data.files import SAVE_WITHOUT_ALPHA, IdMasks, Remedies
from segrefinery.data.sorting import IMAGE_SUFFIXES
from segrefinery.labels import IGNORE, LabelSpace, lookup_table, parse_space

if TYPE_CHECKING:
    from torch import Tensor

_MASKS = ("mask", "seg", "label", "annotation", "gt")
"""What the names of masks end in: ``KEY.mask.png``, or the column of that name."""


_REMEDIES = Remedies(
    "name a class for each, from 0 on, with ,classes=, and write 255 where there is none", SAVE_WITHOUT_ALPHA
)


class PackedDataset(ABC):
    """Images that come as the content of files, with masks of ids where classes are named."""

    def __init__(self, reference: str, space: LabelSpace | None) -> None:
        self.reference, self.space = reference, space
        self.has_labels = space is not None
        self.notes: tuple[str, ...] = ()
        ids = {} if space is None else dict(enumerate(space.classes))
        self._masks = None if space is None else IdMasks(lookup_table({**ids, IGNORE: None}, space), remedies=_REMEDIES)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str: ...

    @abstractmethod
    def content(self, index: int, mask: bool) -> tuple[Path, bytes]:
        """An image or its mask: where it lies, in words, and its bytes."""

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W."""
        place, data = self.content(index, False)
        return read_image(place, data=data)

    def label(self, index: int) -> Tensor:
        """int64, H x W, ids of ``space``, 255 where ignored."""
        place, data = self.content(index, True)
        if self._masks is None:
            raise DataError(place, "mask", "nothing says its classes", "name them with ,classes=")
        label = self._masks.read(place, data)
        image, data = self.content(index, False)
        height, width = image_size(image, data=data)
        if tuple(label.shape) != (height, width):
            problem = f"is {label.shape[1]} x {label.shape[0]}, its image {width} x {height} pixels"
            raise DataError(place, "mask", problem, "write masks at the images' size")
        return label


class Entry(NamedTuple):
    """Where a file lies in a shard."""

    shard: Path
    offset: int
    size: int
    file: str


class ShardDataset(PackedDataset):
    """Tar files in WebDataset's layout: ``KEY.jpg`` and, beside it, ``KEY.mask.png`` (or seg, label, annotation, gt).

    The headers are read once, the content when it is asked for.

    Raises:
        DataError: no shard is there, one is compressed or damaged, or an image has no mask though classes are named.
    """

    def __init__(self, reference: str, shards: Sequence[Path], space: LabelSpace | None) -> None:
        super().__init__(reference, space)
        self.shards = tuple(shards)
        self._images: list[tuple[str, Entry]] = []
        self._masks_at: dict[str, Entry] = {}
        for shard in shards:
            for key, mask, entry in _entries(shard):
                if mask:
                    self._masks_at[key] = entry
                else:
                    self._images.append((key, entry))
        if not self._images:
            raise DataError(shards[0], "shards", "holds no image", f"pack KEY{', KEY'.join(IMAGE_SUFFIXES[:3])}")
        self._refuse_twins()
        bare = [(key, entry) for key, entry in self._images if key not in self._masks_at]
        if space is not None and bare:
            key, entry = bare[0]
            problem = f"{key} has no mask, one of {len(bare)} of {len(self._images)} images"
            raise DataError(entry.shard, "masks", problem, f"pack {key}.mask.png beside it, or leave ,classes= away")
        stray = sorted(self._masks_at.keys() - {key for key, _ in self._images})
        if stray:
            self.notes = (f"{len(stray)} masks have no image, first {stray[0]}",)
        if space is None and self._masks_at:
            self.notes = (f"{len(self._masks_at)} masks are not read, for nothing says their classes (,classes=)",)

    def _refuse_twins(self) -> None:
        first: dict[str, Entry] = {}
        for key, entry in self._images:
            if key in first:
                problem = f"{key} is there twice: {first[key].file} in {first[key].shard.name}, and {entry.file}"
                remedy = f"give each image a key of its own, and name masks KEY.mask.png (or {', '.join(_MASKS[1:])})"
                raise DataError(entry.shard, "shards", problem, remedy)
            first[key] = entry

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images[index][0]

    def content(self, index: int, mask: bool) -> tuple[Path, bytes]:
        key, entry = self._images[index]
        entry = self._masks_at[key] if mask else entry
        place = entry.shard / entry.file
        try:
            with entry.shard.open("rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            raise unreadable_file(entry.shard, "shard", error) from error
        if len(data) < entry.size or not data:
            raise DataError(place, "mask" if mask else "image", "is cut or empty", "copy the shard again")
        return place, data

    def content_key(self) -> Iterator[str]:
        yield f"shards {self.space}"
        for shard in self.shards:
            stat = shard.stat()
            yield f"{shard.name} {stat.st_size} {stat.st_mtime_ns}"


def open_shards(text: str, reference: str) -> ShardDataset:
    """``PATTERN.tar[,classes=SPACE|FILE.txt]``; a pattern has ``*`` or ``{000..127}``."""
    path, options = _options(text, reference, ("classes",))
    patterns = _expanded(path)
    shards = [Path(hit) for pattern in patterns for hit in (sorted(glob.glob(pattern)) or [pattern])]
    for shard in shards:
        if not shard.is_file():
            raise DataError(shard, "shards", "does not exist or is no file", "write shards:FOLDER/*.tar")
        if not tarfile.is_tarfile(shard) or _compressed(shard):
            raise DataError(shard, "shards", "is no plain tar file", "decompress it: shards are read in any order")
    return ShardDataset(reference, shards, _space(options.get("classes")))


def _expanded(pattern: str) -> list[str]:
    """``{000..002}`` written out."""
    parts = re.split(r"(\{\d+\.\.\d+\})", pattern)
    choices = []
    for part in parts:
        hit = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        numbers = range(int(hit[1]), int(hit[2]) + 1) if hit else ()
        choices.append([str(n).zfill(len(hit[1])) for n in numbers] if hit else [part])
    return [str(Path("".join(each)).expanduser()) for each in product(*choices)]


def _entries(shard: Path) -> Iterator[tuple[str, bool, Entry]]:
    """Key, whether it is a mask, and place of each picture in a shard."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                key, _, ending = file.partition(".")
                *kinds, suffix = ending.lower().split(".")
                if member.isfile() and key and f".{suffix}" in IMAGE_SUFFIXES:
                    name = f"{folder}/{key}".removeprefix("./").lstrip("/")
                    entry = Entry(shard, member.offset_data, member.size, member.name)
                    yield name, bool(kinds) and kinds[-1] in _MASKS, entry
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(shard, "shards", f"is damaged ({error})", "copy it again") from error


def _compressed(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


class HubDataset(PackedDataset):
    """A data set in the form of Hugging Face's ``datasets``."""

    def __init__(self, reference: str, rows: Any, image: str, mask: str | None, space: LabelSpace | None) -> None:
        super().__init__(reference, space if mask else None)
        self._rows, self._image, self._mask = rows, image, mask
        if mask and space is None:
            self.notes = (f"the masks in {mask!r} are not read, for nothing says their classes (,classes=)",)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        stored = Path(self._rows[index][self._image].get("path") or "").stem
        return f"{index:06d}_{stored}" if stored else f"{index:06d}"

    def content(self, index: int, mask: bool) -> tuple[Path, bytes]:
        column = self._mask if mask else self._image
        cell = self._rows[index][column] if column else None
        place = Path(f"{self.reference} row {index} {column}")
        if not cell:
            raise DataError(place, "mask" if mask else "image", "is empty", "remove the row, or complete it")
        data = cell.get("bytes")
        try:
            return place, data if data is not None else Path(cell["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise unreadable_file(place, "image", Exception(str(error))) from error

    def content_key(self) -> Iterator[str]:
        yield f"hfds {getattr(self._rows, '_fingerprint', '')} {len(self)} {self._image} {self._mask} {self.space}"


def open_hub(text: str, split: str | None, reference: str) -> HubDataset:
    """``ORG/NAME[,image=COLUMN][,label=COLUMN][,classes=SPACE|FILE.txt][,first=N][@SPLIT]``, of the hub or a folder.

    With ``first`` so many rows are streamed, as they are stored, into memory, and no more are downloaded.

    Raises:
        SegRefineryError: ``datasets`` is not installed, or the data set, the split or a column does not exist.
    """
    library = optional("datasets", "hfds: needs datasets", "datasets")
    path, options = _options(text, reference, ("image", "label", "classes", "first"))
    first = _first(options.get("first"), reference)
    rows = _rows(library, path, split, reference, first)
    if rows.features is None:
        raise DataError(reference, "columns", "its stream does not say them", "leave ,first= away")
    pictures = [name for name, feature in rows.features.items() if isinstance(feature, library.Image)]
    masks = [name for name in pictures if any(word in name.lower() for word in _MASKS)]
    image = options.get("image") or next((name for name in pictures if name not in masks), None)
    mask = options.get("label") or next((name for name in masks if name != image), None)
    for column, key in ((image, "image"), (mask, "label")):
        if column not in pictures and (column is not None or key == "image"):
            choices = ", ".join(pictures) or "none of pictures"
            problem = f"there is no column of pictures {column!r}"
            raise DataError(reference, key, problem, f"write {key}= with one of: {choices}")
    for column in {image, mask} - {None}:
        rows = rows.cast_column(column, library.Image(decode=False))
    kept = rows.select_columns([column for column in (image, mask) if column])
    if first and isinstance(kept, library.IterableDataset):
        kept = _streamed(library, kept, first, reference)
    space = _space(options.get("classes")) or _named(library, rows.features, Path(path).name)
    return HubDataset(reference, kept, str(image), mask, space)


def _first(given: str | None, reference: str) -> int | None:
    if given is not None and not re.fullmatch(r"[1-9]\d{0,8}", given):
        raise DataError(reference, "first", f"is {given!r}", "write how many rows, as in ,first=1000")
    return None if given is None else int(given)


def _streamed(library: Any, stream: Any, first: int, reference: str) -> Any:
    """The first rows of a stream."""
    import fsspec

    rows = []
    try:
        for row in islice(stream, first):
            for cell in row.values():
                if cell and cell["bytes"] is None:  # it lies in a file of its own, here or on the hub
                    opened: Any = fsspec.open(cell["path"], "rb")
                    with opened as file:
                        cell["bytes"] = file.read()
            rows.append(row)
    except Exception as error:  # it raises whatever its parts raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        problem = f"row {len(rows)} cannot be streamed ({reason})"
        raise DataError(reference, "data set", problem, "check the network, and try again") from error
    return library.Dataset.from_list(rows, features=stream.features)


def _rows(library: Any, path: str, named: str | None, reference: str, first: int | None) -> Any:
    split = named or "train"
    try:
        if (Path(path) / "state.json").exists() or (Path(path) / "dataset_dict.json").exists():
            stored = library.load_from_disk(path)
            if not isinstance(stored, library.DatasetDict):
                if named not in (None, str(stored.split)):
                    raise DataError(reference, "split", "this folder was saved as one set", f"leave @{named} away")
                return _among(stored, first)
            if split in stored:
                return _among(stored[split], first)
            raise DataError(reference, "split", f"there is no split {split!r}", f"choose one of: {', '.join(stored)}")
        return _loaded(library, path, split, reference, first is not None)
    except SegRefineryError:
        raise
    except Exception as error:  # it raises whatever its parts raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        problem = f"cannot be opened ({reason})"
        raise DataError(reference, "data set", problem, "check name, split and network") from error


def _loaded(library: Any, path: str, split: str, reference: str, streaming: bool) -> Any:
    """Of a folder, of what was fetched before, or of the hub where that can be reached."""
    reason = None if Path(path).exists() else why_unreachable()
    if reason is None:
        return library.load_dataset(path, split=split, streaming=streaming)
    try:
        with from_cache_alone(library):
            return library.load_dataset(path, split=split, streaming=streaming)
    except OSError as error:  # its own for offline, and what is not among its files
        problem = f"is no folder and was not fetched before, and the hub cannot be reached ({reason})"
        raise DataError(reference, "data set", problem, "check name and network") from error


def _among(rows: Any, first: int | None) -> Any:
    return rows if first is None else rows.select(range(min(first, len(rows))))


def _named(library: Any, features: Any, name: str, listed: bool = False) -> LabelSpace | None:
    """The classes that a feature in a list names, as those of an image's objects; one that stands alone says what the
    whole image is, and names no classes of its mask."""
    if isinstance(features, library.ClassLabel):
        return LabelSpace.of(name, features.names) if listed and len(features.names) > 1 else None
    if isinstance(features, dict | list):
        within: list[Any] = list(features.values() if isinstance(features, dict) else features)
        listed = listed or isinstance(features, list)
    else:
        inner = getattr(features, "feature", None)
        within, listed = [] if inner is None else [inner], True
    return next((space for each in within if (space := _named(library, each, name, listed)) is not None), None)


def _options(text: str, reference: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    path, *given = text.split(",")
    options = {}
    for option in given:
        name, mark, value = option.partition("=")
        if name not in known or not mark or not value:
            remedy = f"write {', '.join(f',{name}=' for name in known)} after the path"
            raise DataError(reference, "reference", f"cannot read {option!r}", remedy)
        options[name] = value
    return path, options


def _space(given: str | None) -> LabelSpace | None:
    """A label space by name, or a text file of class names, one a line."""
    if given is None:
        return None
    file = Path(given).expanduser()
    if not file.is_file():
        return parse_space(given)
    try:
        lines = readable(file).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_file(file, "classes", error) from error
    return LabelSpace.of(file.stem, [line.strip() for line in lines if line.strip()])
