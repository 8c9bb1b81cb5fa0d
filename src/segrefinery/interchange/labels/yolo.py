"""Labels as YOLO segmentation: a text file of outlines an image, and ``data.yaml``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import write_text
from segrefinery.core.lazy import optional
from segrefinery.interchange.labels.base import Item, Labelled, LabelWriter, picture_name, place_picture, regions

_FINE = 2
"""Pixels are traced on a raster so many times as fine: an outline then holds the centres of all its pixels, those of a
crack of one pixel too."""


@dataclass
class YoloLabels(LabelWriter):
    """``labels/train/NAME.txt``, a line a connected region (``CLASS x y x y ...`` in shares of the sides), with the
    images in ``images/train/`` and ``data.yaml``. A hole is joined to the outline around it by a cut without width.

    The classes are all but ``background``, numbered from 0 on; by ``numbering`` if it has no gaps.
    """

    def __post_init__(self) -> None:
        tracing()
        self.refuse_colors()
        ids = list(self._ids().values())
        if sorted(ids) != list(range(len(ids))):
            raise SegRefineryError(
                f"--ids: YOLO numbers classes from 0 on, and these have {', '.join(map(str, ids))}; leave --ids away"
            )

    def files(self, item: Item) -> Sequence[Path]:
        return (self.folder / "labels/train" / Path(picture_name(item, stem=True)).with_suffix(".txt"),)

    def write(self, item: Item, image: Tensor | None, labelled: Labelled) -> None:
        height, width = labelled.label.shape
        lines = []
        ids = self._ids()
        for place, cover, _ in regions(labelled, list(ids)):
            for corners in outlines(cover.cpu().numpy()):
                shares = (corners / (width, height)).ravel()
                lines.append(f"{ids[place]} " + " ".join(f"{share:.7g}" for share in shares))
        place_picture(self.folder / "images/train", item, image, picture_name(item, stem=True))
        write_text(self.files(item)[-1], "".join(f"{line}\n" for line in lines))

    def finish(self, items: Sequence[Item]) -> None:
        names = dict(sorted((self._ids()[place], name) for place, name in self.objects()))
        described = {"train": "images/train", "val": "images/train", "names": names}
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        note = "# val are the same labels; name labelled images there to score."
        write_text(self.folder / "data.yaml", f"{note}\n{text}")

    def _ids(self) -> dict[int, int]:
        """The number of each class, by its place."""
        places = [place for place, _ in self.objects()]
        codes = range(len(places)) if self.numbering is None else [self.numbering.codes[place] for place in places]
        return {place: code for place, code in zip(places, codes, strict=True) if isinstance(code, int)}

    def remarks(self) -> list[str]:
        return self.remarks_on_background()


def outlines(cover: np.ndarray) -> Iterator[np.ndarray]:
    """The outlines of the connected regions (over corners too) of a mask, H x W bool, each n x 2 pixels (x, y)."""
    cv2 = tracing()
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    if not len(rows):
        return
    top, left = int(rows[0]), int(columns[0])
    part = cover[top : rows[-1] + 1, left : columns[-1] + 1]
    fine = np.zeros([_FINE * side + 2 for side in part.shape], np.uint8)
    for row, column in np.ndindex(_FINE, _FINE):
        fine[1 + row : -1 : _FINE, 1 + column : -1 : _FINE] = part
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    del fine, part
    tree = np.asarray(tree).reshape(-1, 4)
    holes_of: dict[int, list[np.ndarray]] = {}
    for place in (tree[:, 3] != -1).nonzero()[0]:
        holes_of.setdefault(int(tree[place, 3]), []).append(_corners(contours[place]))
    for place in (tree[:, 3] == -1).nonzero()[0]:
        yield (_joined(_corners(contours[place]), holes_of.get(int(place), [])) - 0.5) / _FINE + (left, top)


def _corners(contour: np.ndarray) -> np.ndarray:
    return contour[:, 0, :].astype(np.float64)


def _joined(outer: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """One ring that goes around and into each hole and back, each by a cut between two of the nearest corners."""
    ring = outer
    for hole in sorted(holes, key=lambda hole: -hole[:, 0].max()):
        begin = int(hole[:, 0].argmax())
        far = np.abs(ring - hole[begin]).sum(axis=1)
        cut = int(far.argmin())
        around = np.concatenate([hole[begin:], hole[: begin + 1]])
        ring = np.concatenate([ring[: cut + 1], around, ring[cut:]])
    return ring


def tracing() -> Any:
    """OpenCV.

    Raises:
        SegRefineryError: it is not installed.
    """
    return optional("cv2", "--format yolo needs OpenCV", "yolo")
