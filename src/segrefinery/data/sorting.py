"""Which pictures of a directory are images: masks, what we wrote ourselves and formats that are not read are not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.decoding import DataError, decoded, image_size
from segrefinery.data.label_files import MADE, MANIFEST

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
_OTHER_FORMATS = (
    ".gif", ".jp2", ".j2k", ".jxl", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".tga",
    ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".nii", ".ecw", ".vrt",
)  # fmt: skip
_MASK = r"masks?|labels?|labelids|labeltrainids|annotations?|gt|groundtruth|gtfine|segmentation(class|object)?(raw)?"
_MASK_FOLDER = re.compile(rf"(.*[ _-])?({_MASK})", re.IGNORECASE)
_MASK_STEM = re.compile(
    rf"(?P<image>.+?)([ ._-]({_MASK}|lbls?|segm?))+([ ._-](colou?rs?|instanceids|instances?))?", re.IGNORECASE
)
_LAST_WORD = re.compile(r"(?P<image>.+)[ ._-][^ ._-]+")
_OURS = re.compile(r"(?P<label>.+)\.(weight|confidence|overlay)")
_FEW_COLORS = 32
_LOOKED_AT = 4


def pictures_among(names: Sequence[str]) -> list[str]:
    """The names of pictures in the formats that are read."""
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def images_among(root: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names (POSIX paths below ``root``) that are images, and a sentence about each kind that is left out.

    A mask is what lies in a folder of masks beside others, what is named after another picture (``x_mask``), and the
    PNG of a few colours of two pictures of one stem, or of stems as ``x_img`` and ``x_mask``, where the other has many.
    """
    pictures = pictures_among(names)
    skipped = Counter(suffix for name in names if (suffix := PurePosixPath(name).suffix.lower()) in _OTHER_FORMATS)
    ours = _written_by_us(root, pictures, set(names))
    images = [name for name in pictures if name not in ours]
    masks = _masks(root, images)
    notes = []
    if skipped:
        counted = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        notes.append(f"pictures of formats that are not read are left out: {counted}; convert them to PNG")
    if nameless := [name for name in names if not PurePosixPath(name).suffix and _is_picture(root / name)]:
        notes.append(f"{_first(sorted(nameless))} without a suffix and left out, though a picture by content; rename")
    if ours:
        notes.append(f"{_first(sorted(ours))} written by segrefinery and left out")
    if masks:
        notes.append(f"{_first(sorted(masks))} taken for masks and left out; name the images by a glob if they are not")
    return [name for name in images if name not in masks], notes


def masks_by_look(root: Path, pictures: Sequence[str]) -> set[str]:
    """The pictures that have few colours, as masks have, whatever they are called: of those of one folder, suffix and
    last word of the stem (``x_L.png``) a few are looked at."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in pictures:
        path = PurePosixPath(name)
        word = re.search(r"[^\W\d_]*$", path.stem)
        groups[str(path.parent), path.suffix.lower(), word[0] if word else ""].append(name)
    return {
        name
        for names in groups.values()
        if all(_has_few_colors(root / name) for name in names[:: max(1, len(names) // _LOOKED_AT)][:_LOOKED_AT])
        for name in names
    }


def refuse_masks_alone(root: Path, images: Sequence[str]) -> list[str]:
    """A sentence where pictures look like masks with no image among them; refused in a folder that is called so.

    Raises:
        DataError: they are the masks of a folder such as ``labels``.
    """
    shown = images[:: max(1, len(images) // _LOOKED_AT)][:_LOOKED_AT]
    most = 0
    for name in shown:
        count = _colors(root / name) if name.lower().endswith(".png") else None
        if count is None or count > _FEW_COLORS:
            return []
        most = max(most, count)
    if most < 2:  # plain areas say nothing
        return []
    what = f"the pictures looked at ({len(shown)} of {len(images)}) have {_FEW_COLORS} colours or fewer, as masks have"
    if _MASK_FOLDER.fullmatch(root.resolve().name):
        raise DataError(root, "path", what, f"name the images' folder, or write {root}/**/*.png if they are images")
    return [what]


def _first(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{len(names)} files, first {names[0]}, are"


def _written_by_us(root: Path, pictures: Sequence[str], names: set[str]) -> set[str]:
    """Predictions and pseudo-labels with what belongs to them, and all that lies in their folder or that of a run."""
    folders = {parent for name in pictures for parent in PurePosixPath(name).parents}
    runs = {f for f in folders if all((root / f / file).is_file() for file in ("recipe.yaml", "environment.json"))}
    runs |= {f for f in folders if (root / f / MADE).is_file()}
    manifests = {f for f in folders if (root / f / MANIFEST).is_file()}
    written = set()
    for name in pictures:
        path = PurePosixPath(name)
        part = _OURS.fullmatch(path.stem)
        beside = part is not None and str(path.with_name(f"{part['label']}.png")) in names
        numbered = path.parent in manifests and re.match(r"\d{6}_", path.name)
        if beside or numbered or runs.intersection(path.parents):
            written.add(name)
            if beside and part is not None:
                written.add(str(path.with_name(f"{part['label']}.png")))
    return written


def _masks(root: Path, pictures: Sequence[str]) -> set[str]:
    in_folders = {n for n in pictures if any(_MASK_FOLDER.fullmatch(part) for part in PurePosixPath(n).parent.parts)}
    masks = in_folders if len(in_folders) < len(pictures) else set()
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        if name not in masks:
            by_stem[PurePosixPath(name).stem].append(name)
    image_of = {stem: hit["image"] for stem in by_stem if (hit := _MASK_STEM.fullmatch(stem))}
    by_first_words: dict[str, list[str]] = defaultdict(list)
    for stem in by_stem.keys() - image_of.keys():
        by_first_words[hit["image"] if (hit := _LAST_WORD.fullmatch(stem)) else stem] += by_stem[stem]
    for stem, names in by_stem.items():
        if image_of.get(stem) in by_stem:
            masks.update(names)
            continue
        others = by_first_words[image_of[stem]][:1] if image_of.get(stem) in by_first_words else names
        if len(names) > 1 or others is not names:
            few = {name for name in {*names, *others} if _has_few_colors(root / name)}
            if not few.issuperset(others):
                masks.update(name for name in few.intersection(names) if name.lower().endswith(".png"))
    return masks


def _is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does."""
    try:
        return min(image_size(path)) > 0
    except SegRefineryError:
        return False


def _has_few_colors(path: Path) -> bool:
    count = _colors(path)
    return count is not None and count <= _FEW_COLORS


def _colors(path: Path) -> int | None:
    """How many colours every other pixel of every other row has; None of what cannot be read or holds floats."""
    try:
        values = decoded(path, "image", rgb=True)
    except DataError:
        return None
    if values.dtype.kind == "f":
        return None
    pixels = values.reshape(*values.shape[:2], -1)[::2, ::2].astype(np.int64)
    codes = sum(pixels[..., band] << 16 * band for band in range(min(pixels.shape[2], 3)))
    return len(np.unique(codes))
