"""The ids or colours in which a data set's masks store its classes, for labels that are to lie among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.annotations.painting import PaintedMasks
from segrefinery.data.datasets import ImageDataset, parts_of
from segrefinery.data.decoding import palette_in
from segrefinery.data.files import ColorMasks, FileDataset, IdMasks
from segrefinery.labels import IGNORE, Color, LabelSpace, Merge, key, match, renamed

Code = int | Color


@dataclass(frozen=True)
class Numbering:
    """How masks store classes.

    Attributes:
        space: the classes. codes: the id, or the colour, of each.
        ignored: the code of what is not to be learned; None where there is none.
        palette: red, green, blue of every id from 0 on, to look at; empty for colours and ids above 255.
    """

    space: LabelSpace
    codes: tuple[Code, ...]
    ignored: Code | None = IGNORE
    palette: tuple[int, ...] = ()

    def picture(self, label: Tensor) -> Image.Image:
        """H x W ids of ``space``, 255 ignored, as they are stored: 8 bits with a palette, grey of 16 bits, or RGB.

        Raises:
            SegRefineryError: a pixel is ignored, and there is no code for it.
        """
        values = label.cpu().numpy()
        if self.ignored is None and bool((values == IGNORE).any()):
            raise SegRefineryError(
                f"{self.space.name}: its masks have no id for pixels that are to be ignored, for {IGNORE} is a class; "
                "declare one under ignore in its dataset.yaml, or leave --threshold away"
            )
        table = np.zeros((256, 3) if isinstance(self.codes[0], tuple) else 256, dtype=np.uint16)
        table[: len(self.codes)] = self.codes
        table[IGNORE] = 0 if self.ignored is None else self.ignored
        stored = table[values]
        if stored.ndim == 2 and table.max() > 255:
            return Image.fromarray(stored)
        picture = Image.fromarray(stored.astype(np.uint8))
        if stored.ndim == 2:
            picture.putpalette([*self.palette, *[0] * (768 - len(self.palette))])
        return picture


def own_numbering(space: LabelSpace) -> Numbering:
    """Ids that are the places of the classes."""
    return Numbering(space, tuple(range(space.num_classes)), IGNORE, _shown(space, range(space.num_classes)))


def numbering_of(dataset: ImageDataset) -> Numbering:
    """How a labelled data set stores its classes: the ids and the palette of its masks, or their colours; the numbers
    of categories where masks are painted.

    Raises:
        SegRefineryError: it has no labels, is several sets, or its masks hold no numbers.
    """
    if dataset.space is None:
        raise SegRefineryError(f"{dataset.reference}: has no labels, so it has no ids; name a labelled data set")
    if parts_of(dataset):
        raise SegRefineryError(f"{dataset.reference}: several data sets, each with ids of its own; name one of them")
    if not isinstance(dataset, FileDataset):
        return own_numbering(dataset.space)
    space, masks = dataset.space, dataset.masks
    if isinstance(masks, ColorMasks):
        places = range(space.num_classes)
        colors = masks.written or tuple(next(c for c, id in masks.colors.items() if id == place) for place in places)
        ignored = [color for color, id in masks.colors.items() if id == IGNORE]
        return Numbering(space, colors, ignored[0] if ignored else None)
    if isinstance(masks, PaintedMasks):
        numbers = masks.annotations.numbers()
        if numbers is None:
            raise SegRefineryError(f"{dataset.reference}: its regions have names and no ids; leave --ids away")
        free = min(set(range(len(numbers) + 1)) - set(numbers.values()))
        codes = tuple(numbers.get(key(name), free) for name in space.classes)
        return Numbering(space, codes, None if IGNORE in codes else IGNORE, _shown(space, codes))
    if not isinstance(masks, IdMasks):
        return own_numbering(space)
    codes = masks.written or tuple(int((masks.table == place).nonzero()[0]) for place in range(space.num_classes))
    unlearned = (masks.table == IGNORE).nonzero().flatten().tolist()
    ignored = IGNORE if IGNORE in unlearned else unlearned[-1] if unlearned else None
    file = dataset.mask_file()
    palette = palette_in(file) if file is not None and masks.channel is None else None
    return Numbering(space, codes, ignored, tuple(palette) if palette else _shown(space, codes))


def numbered_as(space: LabelSpace, other: Numbering, merge: Merge | None = None) -> Numbering:
    """Classes in the codes of another data set, matched by name.

    Args:
        merge: how the other's classes were renamed to become these.

    Raises:
        SegRefineryError: a class is none of the other's.
    """
    names, codes = renamed(other.space.classes, merge), []
    for wanted in space.classes:
        fits = [place for place, name in enumerate(names) if name is not None and match(name, (wanted,)) is not None]
        same = [place for place in fits if key(other.space.classes[place]) == key(wanted)]
        if not fits:
            choices = ", ".join(other.space.classes)
            raise SegRefineryError(f"{other.space.name}: has no class {wanted!r}, which the model has, but {choices}")
        codes.append(other.codes[(same or fits)[0]])
    return Numbering(space, tuple(codes), other.ignored, other.palette)


def _shown(space: LabelSpace, codes: range | tuple[int, ...]) -> tuple[int, ...]:
    """The classes' colours at their ids; empty where an id is above 255."""
    if max(codes) > 255:
        return ()
    colors = [(0, 0, 0)] * (max(codes) + 1)
    for code, color in zip(codes, space.colors, strict=True):
        colors[code] = color
    return tuple(channel for color in colors for channel in color)
