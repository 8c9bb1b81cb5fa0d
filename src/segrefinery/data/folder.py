"""``folder``: any data set, described by a short ``dataset.yaml``."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import readable
from segrefinery.core.settings import Settings, mistakes_of
from segrefinery.core.yaml import parse_yaml
from segrefinery.data.decoding import DataError
from segrefinery.data.described import how_to_describe
from segrefinery.data.discover import find, require_folder
from segrefinery.data.files import ColorMasks, Exif, FileDataset, IdMasks, MaskEncoding, Sample, Transparent
from segrefinery.data.listed import SplitSettings, class_names, names_of_split, read_labelmap
from segrefinery.data.reading import Reading
from segrefinery.labels import IGNORE, Color, LabelSpace, check_merge, key, lookup_table, merged, parse_space, renamed

# The colour of VOC's object borders, which its labelmap.txt does not list.
_VOC_BORDER: Color = (224, 224, 192)


_Channel = Annotated[int, Field(ge=0, le=255)]
_Percent = Annotated[float, Field(ge=0, le=100)]
_Band = Annotated[int, Field(ge=1)]
_Rgb = tuple[_Channel, _Channel, _Channel]


class FolderSettings(Settings):
    """The keys of ``dataset.yaml``."""

    name: str | None = None
    """Names the label space; without it, that of the file's folder (or of the file, if not called dataset.yaml)."""
    root: str = "."
    """Says where the files lie, relative to the yaml. ``$NAME`` and ``${NAME:-default}`` are taken from the
    environment."""
    images: str
    """Gives the pattern of the images below the root, for instance ``images/{name}.jpg``."""
    masks: str | None = None
    """Gives the pattern of their masks, with the same ``{name}``. Without it the data set has no labels."""
    classes: str | list[str] | dict[int, str | None] | None = None
    """Names the classes: a list in the order of their ids, a mapping id -> name (null: ignored), the name of a known
    label space, or a text file with one name a line."""
    colors: dict[str, _Rgb] | None = None
    """Gives class name -> RGB. With ``classes`` it colours pictures; without, the masks themselves are colour PNGs."""
    labelmap: str | None = None
    """Names a ``labelmap.txt`` of VOC or CVAT, for masks that are colour PNGs."""
    merge: dict[str, str | None] = Field(default_factory=dict)
    """Renames classes: name -> new name (several may share one), or null to ignore the class."""
    ignore: tuple[int | _Rgb, ...] = ()
    """Lists ids, or colours of colour masks, that are not to be learned. 255 always is, unless it is a class."""
    splits: dict[str, SplitSettings] = Field(default_factory=dict)
    """Says which images belong to a split, by its name."""
    bits: int | None = Field(default=None, ge=8, le=16)
    """Says how many bits images of 16 bits use, for instance 12; the brightest value is then 4095."""
    range: tuple[float, float] | None = None
    """Gives the numbers of images that are black and white, for instance [0, 4095]; what lies outside is cut."""
    percentile: tuple[_Percent, _Percent] | None = None
    """Gives the shares in percent of each picture's pixels, band by band, that are black below and white above."""
    bands: tuple[_Band, ...] | None = Field(default=None, min_length=1)
    """Says which bands are seen, counted from 1; of three or more the first are red, green and blue."""
    transparent: Transparent | None = None
    """Says that pixels of masks whose alpha is 0 are not learned (``ignore``), or are what their numbers say
    (``keep``); needed where there are any."""
    exif: Exif | None = None
    """Turns a JPEG as its EXIF mark says (``follow``), or leaves it as stored (``ignore``); needed where a mask fits
    both."""

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        given = [name for name in ("bits", "range", "percentile") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say the range of the images; give one")
        for ends in (self.range, self.percentile):
            if ends is not None and ends[0] >= ends[1]:
                raise ValueError(f"the range of the images is {list(ends)}; give the smaller number first")
        return self

    @property
    def reading(self) -> Reading:
        """How the images' numbers are read."""
        return Reading(self.bits, self.range, self.percentile, self.bands)

    @field_validator("classes", mode="before")
    @classmethod
    def _classes(cls, given: Any) -> Any:
        if isinstance(given, dict):
            if not all(isinstance(i, int) for i in given):
                raise ValueError("write id: name, for instance {0: road, 1: car}")
            return {i: None if name is None else _class_name(name) for i, name in given.items()}
        if isinstance(given, list):
            return [_class_name(name) for name in given]
        if not isinstance(given, str | None):
            raise ValueError("write a list of names, id: name, the name of a label space, or a text file of names")
        return given

    @field_validator("ignore", mode="before")
    @classmethod
    def _ignore(cls, given: Any) -> Any:
        given = [given] if isinstance(given, int) else given
        for value in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(value, int) and not (isinstance(value, list | tuple) and _is_color(value)):
                raise ValueError("write ids, for instance [250, 254], or colours from 0 to 255, [[1, 2, 3]]")
        return given


def open_folder(path: Path, split: str | None, reference: str) -> FileDataset:
    """The data set that ``path``, a yaml or the folder of a ``dataset.yaml``, describes; all images, or one split.

    Raises:
        SegRefineryError: the description, a file it names or the split is wrong or missing.
    """
    file = path / "dataset.yaml" if path.is_dir() else path
    settings = _load(file)
    root = file.parent / _expand(settings.root, file)
    require_folder(root, "root")
    masks = _masks(root, settings, file)
    mask_files = set(masks.values())
    fitting = find(root, settings.images)
    images = {name: image for name, image in fitting.items() if image not in mask_files}
    if not images:
        problem = f"{'nothing but masks' if fitting else 'no file'} fits {settings.images!r} under {root}"
        remedy = "write folders with /" if "\\" in settings.images else "correct the pattern or the root"
        raise DataError(file, "images", problem, remedy)
    stray = [mask for name, mask in masks.items() if name not in {_composed(name) for name in images}]
    notes = [f"{len(stray)} masks have no image, first {stray[0]}"] if stray else []
    notes += _twice(settings, root)
    if split is not None:
        images = _select(images, file, root, settings, split)
    if settings.masks is None:
        unlabelled = [Sample(name, image) for name, image in images.items()]
        return FileDataset(reference, unlabelled, reading=settings.reading, exif=settings.exif)
    samples = [
        Sample(name, image, masks.get(_composed(name), root / settings.masks.replace("{name}", name)))
        for name, image in images.items()
    ]
    space, masks = _encoding(settings, file, root)
    return FileDataset(reference, samples, space, masks, settings.reading, settings.exif, notes)


def _masks(root: Path, settings: FolderSettings, file: Path) -> dict[str, Path]:
    """Mask files by the composed form of their name."""
    if settings.masks is None:
        return {}
    if "{name}" not in settings.masks:
        raise DataError(file, "masks", "has no {name}", "write for instance masks/{name}.png")
    try:
        masks = find(root, settings.masks)
    except DataError:
        if (root / settings.masks.partition("{name}")[0].rpartition("/")[0]).exists():
            raise
        return {}  # whoever needs them says which is missing
    return {_composed(name): mask for name, mask in masks.items()}


def _twice(settings: FolderSettings, root: Path) -> list[str]:
    """A sentence for each class that several ids have."""
    classes = settings.classes
    if isinstance(classes, str):
        classes = class_names(root / classes) if (root / classes).is_file() else None
    if classes is None:
        return []
    ids: dict[str, list[int]] = {}
    for number, name in classes.items() if isinstance(classes, dict) else enumerate(classes):
        if name is not None:
            ids.setdefault(name, []).append(number)
    several = {name: numbers for name, numbers in ids.items() if len(numbers) > 1}
    return [f"the ids {' and '.join(map(str, numbers))} are one class, {name!r}" for name, numbers in several.items()]


def _composed(name: str) -> str:
    """One form for names that look alike: some systems store an accent apart from its letter."""
    return unicodedata.normalize("NFC", name)


def _class_name(given: object) -> str:
    if not isinstance(given, str | int):
        raise ValueError("a class name is a text; put it in quotes")
    return str(given)


def _is_color(value: list[object] | tuple[object, ...]) -> bool:
    return len(value) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _load(file: Path) -> FolderSettings:
    try:
        content = parse_yaml(readable(file).read_text("utf-8"), booleans=False)
    except FileNotFoundError as error:
        remedy = "check the path"
        if file.name == "dataset.yaml" and file.parent.is_dir():
            alone = (
                f"write it (docs/data.md), or name the images as {file.parent}, without folder:, if they have no masks"
            )
            remedy = how_to_describe(file.parent) or alone
        raise DataError(file, "dataset.yaml", "does not exist", remedy) from error
    except OSError as error:
        raise DataError(file, "dataset.yaml", f"cannot be read ({error.strerror})", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        remedy = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "correct it"
        if re.search(r":\s*\{name\}", str(error)):
            remedy = "put what begins with {name} in quotes: '{name}.png'"
        elif "'\\t' that cannot start" in str(error):
            remedy = "write spaces, not tabs"
        raise DataError(file, "dataset.yaml", f"is no YAML: {' '.join(str(error).split())}", remedy) from error
    if not isinstance(content, dict):
        raise DataError(file, "dataset.yaml", "has no keys", f"it needs {', '.join(FolderSettings.model_fields)}")
    try:
        return FolderSettings(**content)
    except (ValidationError, TypeError) as error:
        if not isinstance(error, ValidationError):
            raise DataError(file, "dataset.yaml", "has a key that is no text", "write keys as words") from error
        first = mistakes_of(error, FolderSettings)[0]
        field = ".".join(str(part) for part in first.location)
        remedy = how_to_describe(file.parent) if field == "images" and field not in content else ""
        raise DataError(file, field, first.text, remedy or "correct it") from error


def _expand(text: str, file: Path) -> str:
    def value(hit: re.Match[str]) -> str:
        name, default = hit["braced"] or hit["bare"], hit["default"]
        content = os.environ.get(name) or default
        if content is None:
            raise DataError(
                file, "root", f"the environment variable {name} is not set", f"set it, or write ${{{name}:-PATH}}"
            )
        return content

    pattern = r"\$(?:\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>\w+))"
    return os.path.expanduser(re.sub(pattern, value, text))


def _select(images: dict[str, Path], file: Path, root: Path, settings: FolderSettings, split: str) -> dict[str, Path]:
    if split not in settings.splits:
        choices = f"choose one of: {', '.join(settings.splits)}" if settings.splits else "declare it under 'splits'"
        raise DataError(file, "splits", f"there is no split {split!r}", choices)
    rule = settings.splits[split]
    names = names_of_split(root / rule.file, rule, f"splits.{split}")
    stored = {_composed(name): name for name in images}
    lost = [name for name in names if _composed(name) not in stored]
    if lost:
        raise DataError(
            root / rule.file,
            f"splits.{split}",
            f"{len(lost)} of its {len(names)} names fit no image, first {lost[0]!r}",
            f"names must be what {{name}} stands for in {settings.images!r}",
        )
    return {image_name: images[image_name] for image_name in (stored[_composed(name)] for name in names)}


def _encoding(settings: FolderSettings, file: Path, root: Path) -> tuple[LabelSpace, MaskEncoding]:
    name = settings.name or (file.parent.resolve().name if file.name == "dataset.yaml" else file.stem)
    try:
        if settings.classes is None:
            return _color_masks(settings, name, file, root)
        return _id_masks(settings, name, file, root)
    except DataError:
        raise
    except SegRefineryError as error:
        raise SegRefineryError(f"{file}: {error}") from error


def _id_masks(settings: FolderSettings, name: str, file: Path, root: Path) -> tuple[LabelSpace, IdMasks]:
    classes = settings.classes
    colors = dict(settings.colors or {})
    if isinstance(classes, str) and (classes.endswith(".txt") or (root / classes).is_file()):
        classes = class_names(root / classes)
    elif isinstance(classes, str):
        known = parse_space(classes)
        colors = {**dict(zip(known.classes, known.colors)), **colors}
        classes = list(known.classes)
    ids: dict[int, str | None] = dict(enumerate(classes)) if isinstance(classes, list) else dict(classes or {})
    ignored = [i for i in settings.ignore if isinstance(i, int)]
    if len(ignored) < len(settings.ignore):
        raise DataError(file, "ignore", "names colours, but masks hold ids", "give ids")
    both = [str(i) for i in ignored if i in ids]
    if both:
        raise DataError(file, "ignore", f"{', '.join(both)} is also a class", "take it out of one of them")
    whole = LabelSpace.of(name, list(dict.fromkeys(n for n in ids.values() if n is not None)), colors)
    check_merge(settings.merge, whole)
    space = merged(whole, settings.merge)
    named = {key(name): name for name in (*whole.classes, *space.classes)}
    if strange := [name for name in colors if key(name) not in named]:
        raise DataError(file, "colors", f"no class is named {strange[0]!r}", f"write of {', '.join(named.values())}")
    space = LabelSpace.of(name, space.classes, {**dict(zip(space.classes, space.colors)), **colors})
    table = lookup_table({**dict.fromkeys([*ignored, IGNORE]), **ids}, space, settings.merge)
    original_ids = {key(name): id for id, name in sorted(ids.items(), reverse=True) if name is not None}
    lowest = [int((table == place).nonzero()[0]) for place in range(space.num_classes)]
    written = (original_ids.get(key(name), id) for name, id in zip(space.classes, lowest, strict=True))
    return space, IdMasks(table, written=tuple(written), transparent=settings.transparent)


def _color_masks(settings: FolderSettings, name: str, file: Path, root: Path) -> tuple[LabelSpace, ColorMasks]:
    if settings.labelmap:
        colors = read_labelmap(root / settings.labelmap)
    elif settings.colors:
        colors = settings.colors
    else:
        raise DataError(file, "classes", "is missing", "give 'classes', or 'colors' or 'labelmap' for colour masks")
    whole = LabelSpace.of(name, list(colors), colors)
    check_merge(settings.merge, whole)
    space = merged(whole, settings.merge)
    ids: dict[Color, int] = {color: IGNORE for color in settings.ignore if not isinstance(color, int)}
    if len(ids) < len(set(settings.ignore)):
        raise DataError(file, "ignore", "names ids, but masks hold colours", "give colours, for instance [[1, 2, 3]]")
    ids.setdefault(_VOC_BORDER, IGNORE)
    places = {key(class_name): i for i, class_name in enumerate(space.classes)}
    for (class_name, color), new in zip(colors.items(), renamed(list(colors), settings.merge)):
        if color in ids and color != _VOC_BORDER:
            raise DataError(
                file, "colors", f"{class_name!r} has the colour {color} of another class", "give each its own"
            )
        ids[color] = IGNORE if new is None else places[key(new)]
    original_colors = {key(class_name): color for class_name, color in colors.items()}
    first = (next(color for color, id in ids.items() if id == place) for place in range(space.num_classes))
    written = (original_colors.get(key(name), color) for name, color in zip(space.classes, first, strict=True))
    return space, ColorMasks(ids, tuple(written), settings.transparent)
