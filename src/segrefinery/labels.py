"""Label spaces: the classes of a data set, and how the ids of one data set become the ids of another by class name."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose
from segrefinery.core.words import is_control

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The id of a pixel that is neither learned nor counted."""

UNKNOWN = -1
"""What a lookup table holds for an id that no one declared."""
_AT_ONCE = 1 << 22
"""Pixels of a mask that are looked up at once; their numbers take eight bytes each."""

Color = tuple[int, int, int]
Merge = Mapping[str, str | None]
"""Renames classes before they are matched: class name -> name, or None to ignore the class."""

# Names that mean the same thing in every data set we know. Anything less certain is the user's to say, by ``merge``.
_SYNONYMS = (
    ("sidewalk", "pavement", "footpath"),
    ("vegetation", "tree", "trees"),
    ("person", "pedestrian", "people"),
    ("traffic sign", "sign symbol"),
    ("traffic light", "traffic signal"),
    ("pole", "column pole"),
    ("motorcycle", "motorbike"),
    ("bicycle", "bike"),
)


@dataclass(frozen=True)
class LabelSpace:
    """Named classes; the id of a class is its place in ``classes``, and 255 is always ignored.

    ``colors`` are RGB in 0..255, one a class. ``LabelSpace.of`` fills them in.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= IGNORE:
            raise SegRefineryError(
                f"label space {self.name!r} has {len(self.classes)} classes ({', '.join(self.classes)}); "
                f"segmentation needs 2 to {IGNORE}, so add the missing ones (a 'background' counts as a class)."
            )
        known: dict[str, str] = {}
        for class_name in self.classes:
            if not class_name.strip() or len(class_name) > 200 or any(map(is_control, class_name)):
                raise SegRefineryError(
                    f"label space {self.name!r}: {class_name[:40]!r} is no name of a class; use "
                    "1 to 200 characters of one line"
                )
            if key(class_name) in known:
                raise SegRefineryError(
                    f"label space {self.name!r} names a class twice: {known[key(class_name)]!r} and {class_name!r}; "
                    "rename one, or join them with merge."
                )
            known[key(class_name)] = class_name
        if len(self.colors) != len(self.classes):
            raise SegRefineryError(
                f"label space {self.name!r} has {len(self.classes)} classes but {len(self.colors)} colours; "
                "give one to each class."
            )

        for class_name, color in zip(self.classes, self.colors):
            if not all(0 <= part <= 255 for part in color):
                raise SegRefineryError(f"class {class_name!r} has the colour {color}; give three values from 0 to 255.")

    @classmethod
    def of(cls, name: str, classes: Sequence[str], colors: Mapping[str, Color] | None = None) -> LabelSpace:
        """A space whose colours are those given by class name, else the customary ones, else distinct new ones."""
        given = {key(class_name): color for class_name, color in (colors or {}).items()}
        chosen = tuple(
            given.get(key(class_name)) or _customary_color(class_name) or _distinct_color(index)
            for index, class_name in enumerate(classes)
        )
        return cls(name, tuple(classes), chosen)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def id_of(self, name: str) -> int:
        """The id of a class; case, separators and synonyms do not matter.

        Raises:
            SegRefineryError: no class, or more than one synonym, answers to the name.
        """
        matched = match(name, self.classes)
        if matched is None:
            raise SegRefineryError(
                f"label space {self.name!r} has no class {name!r}. Choose one of: {', '.join(self.classes)}."
            )
        return matched


def key(name: str) -> str:
    """What two spellings of one class name share: 'Traffic Light', 'TrafficLight' and 'traffic_light' are one."""
    return re.sub(r"[\W_]+", "", name).casefold() or name


_CANONICAL = {key(name): key(group[0]) for group in _SYNONYMS for name in group}


def match(name: str, classes: Sequence[str]) -> int | None:
    """The index of the class that ``name`` means: the same spelling first, then a synonym; None if there is none.

    Raises:
        SegRefineryError: several classes are synonyms of the name, none has its spelling.
    """
    keys = [key(class_name) for class_name in classes]
    if key(name) in keys:
        return keys.index(key(name))
    canonical = _CANONICAL.get(key(name))
    hits = [index for index, other in enumerate(keys) if canonical and _CANONICAL.get(other) == canonical]
    if len(hits) > 1:
        raise SegRefineryError(
            f"class {name!r} may be any of {', '.join(classes[i] for i in hits)}; "
            f"say which with merge: {{{name}: NAME}}."
        )
    return hits[0] if hits else None


def renamed(classes: Sequence[str], merge: Merge | None) -> list[str | None]:
    """The classes after ``merge``; None where a class is ignored."""
    by_key = {key(old): new for old, new in (merge or {}).items()}
    return [by_key.get(key(class_name), class_name) for class_name in classes]


def merged(space: LabelSpace, merge: Merge | None, name: str | None = None) -> LabelSpace:
    """The space that is left of ``space`` after ``merge``: each new name once, in the order of first appearance.

    A new class has the colour of the class that already had its name, else its customary colour.
    """
    colors_by_key = {key(class_name): color for class_name, color in zip(space.classes, space.colors)}
    left: dict[str, str] = {}
    for class_name in renamed(space.classes, merge):
        if class_name is not None:
            left.setdefault(key(class_name), class_name)
    colors = {class_name: colors_by_key[k] for k, class_name in left.items() if k in colors_by_key}
    return LabelSpace.of(name or space.name, tuple(left.values()), colors)


def check_merge(merge: Merge | None, *spaces: LabelSpace) -> None:
    """Refuse a ``merge`` that renames a class which none of the spaces has: most likely a slip of the pen."""
    known = {key(class_name) for space in spaces for class_name in space.classes}
    for old in merge or {}:
        if key(old) not in known:
            lists = "; ".join(f"{space.name}: {', '.join(space.classes)}" for space in spaces)
            raise SegRefineryError(f"merge: no class is named {old!r}. Classes of {lists}.")


def united_space(spaces: Sequence[LabelSpace]) -> LabelSpace | None:
    """All classes of several spaces, by name, in order of their first mention; None of none."""
    if not spaces or all(space.classes == spaces[0].classes for space in spaces):
        return spaces[0] if spaces else None
    classes: dict[str, Color] = {}
    for space in spaces:
        new = [match(name, tuple(classes)) is None for name in space.classes]
        classes |= {name: color for name, color, add in zip(space.classes, space.colors, new) if add}
    name = "+".join(dict.fromkeys(space.name for space in spaces))
    return LabelSpace(name, tuple(classes), tuple(classes.values()))


def common_space(source: LabelSpace, target: LabelSpace, merge: Merge | None = None) -> LabelSpace:
    """The classes that both spaces have, with the target's names, order and colours.

    ``merge`` renames classes on both sides before they are compared.

    Raises:
        SegRefineryError: fewer than two classes are left; both lists are named.
    """
    wanted = merged(target, merge)
    reached = {
        match(class_name, wanted.classes) for class_name in renamed(source.classes, merge) if class_name is not None
    }
    kept = [index for index in range(wanted.num_classes) if index in reached]
    if len(kept) < 2:
        some = f"only {wanted.classes[kept[0]]!r}" if kept else "no class"
        raise SegRefineryError(
            f"the source and the target have {some} in common. {source.name} has: {', '.join(source.classes)}. "
            f"{target.name} has: {', '.join(target.classes)}. Say with merge which classes are the same."
        )
    if len(kept) == target.num_classes and wanted == target:
        return target
    return LabelSpace(
        f"{target.name}-{len(kept)}", tuple(wanted.classes[i] for i in kept), tuple(wanted.colors[i] for i in kept)
    )


def lookup_table(ids: Mapping[int, str | None], space: LabelSpace, merge: Merge | None = None) -> Tensor:
    """The table that turns the ids of mask files into ids of ``space``.

    Args:
        ids: every id the files may hold -> its class name, or None where it is declared to be ignored.
        space: the space to arrive at. A class that it lacks becomes 255.
        merge: renames classes of ``ids`` first.

    Returns:
        int64 tensor of 256 entries, or 65536 where an id needs more than 8 bits; -1 (``UNKNOWN``) for an undeclared id.
    """
    import torch

    bad = [i for i in ids if not 0 <= i < 1 << 16]
    if bad:
        wrong = ", ".join(map(str, bad))
        raise SegRefineryError(f"classes or ignore: {wrong} is no id of a mask; give whole numbers from 0 to 65535.")
    table = torch.full((256 if max(ids, default=0) < 256 else 1 << 16,), UNKNOWN, dtype=torch.int64)
    for file_id, class_name in ids.items():
        name = None if class_name is None else renamed([class_name], merge)[0]
        matched = None if name is None else match(name, space.classes)
        table[file_id] = IGNORE if matched is None else matched
    return table


def apply_table(mask: Tensor, table: Tensor) -> Tensor:
    """``table[mask]`` as int64; ids below zero or beyond the table are ``UNKNOWN`` too. The mask may have any integer
    type."""
    import numpy as np
    import torch

    if mask.ndim == 2 and mask.numel() > _AT_ONCE:
        label = torch.empty(mask.shape, dtype=torch.int64)
        lines = max(1, _AT_ONCE // mask.shape[1])
        for top in range(0, len(mask), lines):
            label[top : top + lines] = apply_table(mask[top : top + lines], table)
        return label
    ids, known = mask.numpy(), table.numpy()  # torch looks up at a quarter of numpy's speed
    fits = mask.dtype == torch.uint8 and len(known) >= 256
    if not fits and ids.size and not 0 <= ids.min() <= ids.max() < len(known):
        inside = (ids >= 0) & (ids < len(known))
        return torch.from_numpy(np.where(inside, known.take(ids, mode="clip"), UNKNOWN))
    return torch.from_numpy(known.take(ids))


def parse_space(space: LabelSpace | str | Sequence[str]) -> LabelSpace:
    """A space given as itself, as a name in ``SPACES``, or as class names: a list, or one text with commas."""
    if isinstance(space, LabelSpace):
        return space
    if isinstance(space, str) and "," in space:
        space = [name.strip() for name in space.split(",")]
    if isinstance(space, str):
        return choose(SPACES, space, "label space")
    return LabelSpace.of("custom", tuple(space))


_CITYSCAPES: dict[str, Color] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
_CAMVID: dict[str, Color] = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}


def _customary_color(name: str) -> Color | None:
    matched = match(name, tuple(_CITYSCAPES))
    return None if matched is None else tuple(_CITYSCAPES.values())[matched]


def _distinct_color(index: int) -> Color:
    """Colours far apart for neighbouring indices: hues a golden ratio apart, in three brightnesses."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.65, (0.95, 0.75, 0.55)[index % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def _without(name: str, *dropped: str) -> LabelSpace:
    return LabelSpace.of(name, [c for c in _CITYSCAPES if c not in dropped])


SPACES: dict[str, LabelSpace] = {
    "cityscapes": LabelSpace.of("cityscapes", tuple(_CITYSCAPES)),
    "synthia16": _without("synthia16", "terrain", "truck", "train"),
    "synthia13": _without("synthia13", "terrain", "truck", "train", "wall", "fence", "pole"),
    "camvid": LabelSpace.of("camvid", tuple(_CAMVID), _CAMVID),
}
