"""Finding the files of a data set: patterns with ``{name}``, plain directories and globs."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from segrefinery.data.decoding import DataError
from segrefinery.data.files import Sample
from segrefinery.data.films import FILM_SUFFIXES
from segrefinery.data.sorting import IMAGE_SUFFIXES, images_among, pictures_among, refuse_masks_alone

_NOT_DATA = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")
"""How folders begin that systems keep beside data: thumbnails, what was thrown away."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def walk(root: Path) -> Iterator[str]:
    """The files under ``root`` as sorted relative POSIX paths. Follows links once each, but for those that lead to a
    folder above; leaves out hidden files and what systems keep for themselves.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            error.filename, "path", f"cannot be read ({error.strerror})", "check its permissions"
        ) from error

    visited = set(map(str, Path(os.path.realpath(root)).parents))
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(_NOT_DATA))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def require_folder(path: Path, field: str = "path") -> None:
    """Refuse a path that is missing or no folder."""
    if not path.exists():
        raise DataError(path, field, "does not exist", "check the spelling and that the data is where you say")
    if not path.is_dir():
        raise DataError(path, field, "is not a folder", "name the folder that holds the data set")


def find(root: Path, pattern: str) -> dict[str, Path]:
    """Files below ``root`` that fit ``pattern``: name -> path, in order of name.

    ``{name}`` stands for the name and may reach over several folders; ``*`` is anything inside one folder, ``**/`` any
    number of folders; all else is meant literally, but for the spelling of a last suffix of images.
    Without ``{name}``, the name is the path after the fixed part of the pattern, without suffix.

    Raises:
        DataError: the fixed part of the pattern is no folder, or two files have one name.
    """
    fixed = re.split(r"\{name\}|\*", pattern, maxsplit=1)[0].rpartition("/")[0]
    base = root / fixed
    require_folder(base)
    regex = re.compile(_regex(pattern[len(fixed) :].lstrip("/")))
    files: dict[str, Path] = {}
    for relative in walk(base):
        hit = regex.fullmatch(relative)
        if hit is None:
            continue
        name = hit["name"] if "{name}" in pattern else os.path.splitext(relative)[0]
        if name in files:
            raise DataError(
                base / relative, "images", f"has the same name as {files[name]}", "make the pattern narrower"
            )
        files[name] = base / relative
    return dict(sorted(files.items()))


def _regex(pattern: str) -> str:
    wild = {"{name}": "(?P<name>(?s:.+))", "**/": "(?s:.*/)?", "*": "[^/]*"}
    ending = next(
        (
            known
            for known in (r"\.jpe?g", r"\.png", r"\.webp", r"\.bmp", r"\.tiff?")
            if re.search(f"(?i:{known})$", pattern)
        ),
        None,
    )
    pattern = re.sub(f"(?i:{ending})$", "", pattern) if ending else pattern
    parts = re.split(r"(\{name\}|\*\*/|\*)", pattern)
    # A second {name} means the same text again.
    text = "".join(wild.get(part, re.escape(part)) for part in parts)
    head, first, tail = text.partition(wild["{name}"])
    return head + first + tail.replace(wild["{name}"], "(?P=name)") + (f"(?i:{ending})" if ending else "")


def refuse_archive(path: Path) -> None:
    """Refuse a packed folder, with what to do."""
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        if path.suffix.lower() == ".tar":
            remedy = f"unpack it and name the folder, or write shards:{path} if it is a shard of WebDataset"
        else:
            remedy = "unpack it and name the folder"
        raise DataError(path, "path", "is an archive, and data are read unpacked", remedy)


def plain_images(path: str) -> tuple[list[Sample], list[str]]:
    """The images of a directory (with its subfolders), of a glob, or one file, without masks; and what is left out.

    Of a directory masks and what we wrote are left out (see ``sorting``); a glob and a file are taken at their word.

    Raises:
        DataError: nothing is there, or no image is among it.
    """
    root = Path(path)
    if root.is_dir():
        if (root / "dataset.yaml").exists():
            raise DataError(
                root,
                "path",
                "holds a dataset.yaml, so it is more than a directory of images",
                f"write folder:{path}, or name the folder of its images",
            )
        names = list(walk(root))
        images, notes = images_among(root, names)
        notes += refuse_masks_alone(root, images)
    elif root.exists():
        root, names = root.parent, [root.name]
        images, notes = pictures_among(names), []
    else:
        hits = _fitting(path)
        if not hits:
            raise DataError(path, "path", "does not exist, and is no pattern of existing files", "check the spelling")
        root = Path(os.path.commonpath([os.path.dirname(hit) for hit in hits]))
        names = [Path(hit).relative_to(root).as_posix() for hit in hits]
        images = pictures_among(names)
        notes = _no_pictures(sorted(set(names).difference(images)))
    if not images:
        others = sorted({os.path.splitext(name)[1] or name for name in names})
        held = f"only {', '.join(others[:5])} files" if others else "nothing"
        held = "; ".join([held, *notes])
        remedy = f"give images as {', '.join(IMAGE_SUFFIXES)}"
        if films := [name for name in names if name.lower().endswith(FILM_SUFFIXES)]:
            remedy = f"write {root / films[0]},every=10 for frames of a film"
        raise DataError(path, "path", f"holds no image ({held})", remedy)
    stems = {os.path.splitext(name)[0] for name in images}
    unique = len(stems) == len(images)
    samples = [Sample(os.path.splitext(name)[0] if unique else name, root / name) for name in images]
    return samples, notes


def _fitting(pattern: str) -> list[str]:
    """The files that a glob names, sorted; the folders it begins with are meant as they are written if they exist,
    and links are followed as by ``walk``."""
    parts = Path(pattern).parts
    fixed = 0
    while fixed < len(parts) and Path(*parts[: fixed + 1]).is_dir():
        fixed += 1
    base, wanted = Path(*parts[:fixed]), parts[fixed:]
    if "**" in wanted:
        hits = [name for name in walk(base) if _fits(name.split("/"), wanted)]
    else:
        hits = glob.glob("/".join(wanted), root_dir=base)
    return sorted(str(base / hit) for hit in hits if not (base / hit).is_dir())


def _fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a glob."""
    if not wanted:
        return not parts
    if wanted[0] == "**" and _fits(parts, wanted[1:]):
        return True
    rest = wanted if wanted[0] == "**" else wanted[1:]
    return bool(parts) and (wanted[0] == "**" or fnmatchcase(parts[0], wanted[0])) and _fits(parts[1:], rest)


def _no_pictures(names: Sequence[str]) -> list[str]:
    """A sentence about files that a glob names and that are not read, if there are any."""
    if not names:
        return []
    counted = Counter(os.path.splitext(name)[1].lower() or "without a suffix" for name in names)
    told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counted.items()))
    return [f"files that are no pictures by their suffix are left out: {told}; rename or convert those that are"]
