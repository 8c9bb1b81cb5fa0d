"""Labels as one PNG of ids an image, and one of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from segrefinery.core.files import write_json
from segrefinery.data.label_files import file_stem, save_png, share_image, write_manifest
from segrefinery.data.numbering import Numbering, own_numbering
from segrefinery.interchange.labels.base import Item, Labelled, LabelWriter, picture_name


@dataclass
class PngLabels(LabelWriter):
    """``STEM.png`` (ids with their colours, 255 ignored) and ``STEM.weight.png`` (confidence as 0..255), and at the end
    ``files.csv`` and ``classes.json``.

    Attributes:
        named_as_images: ``labels/NAME.png`` and ``weights/NAME.png`` instead, with the images' own names and folders.
    """

    named_as_images: bool = False

    def files(self, item: Item) -> Sequence[Path]:
        if self.named_as_images:
            name = f"{picture_name(item._replace(file=None)).removesuffix('.png')}.png"
            return self.folder / "weights" / name, self.folder / "labels" / name
        stem = file_stem(item.index, item.name)
        return self.folder / f"{stem}.weight.png", self.folder / f"{stem}.png"

    def write(self, item: Item, image: Tensor | None, labelled: Labelled) -> None:
        label, confidence = labelled
        weights, labels = self.files(item)
        save_png(weights, share_image(confidence))
        save_png(labels, self._numbering.picture(label))

    def finish(self, items: Sequence[Item]) -> None:
        write_manifest(self.folder, ((item.index, item.name, self.files(item)[-1]) for item in items))
        classes = zip(self._numbering.codes, self.space.classes, self._colors(), strict=True)
        write_json(
            self.folder / "classes.json",
            [{"id": code, "name": name, "color": list(color)} for code, name, color in classes],
        )

    @property
    def _numbering(self) -> Numbering:
        return self.numbering or own_numbering(self.space)

    def _colors(self) -> Sequence[tuple[int, ...]]:
        """As the pictures show them."""
        codes, palette = self._numbering.codes, self._numbering.palette
        if isinstance(codes[0], tuple):
            return [code for code in codes if isinstance(code, tuple)]
        if not palette:
            return self.space.colors
        return [tuple(palette[3 * code : 3 * code + 3]) for code in codes if isinstance(code, int)]
