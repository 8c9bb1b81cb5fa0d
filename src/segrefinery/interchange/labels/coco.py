"""Labels as a COCO file with run lengths, by COCO's own library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segrefinery.core.files import read_json, whole_file, write_json
from segrefinery.data.annotations.polygons import tools
from segrefinery.interchange.labels.base import Item, Labelled, LabelWriter, picture_name, place_picture, regions


@dataclass
class CocoLabels(LabelWriter):
    """``annotations.json``: of each image one annotation a class, compressed run lengths with the mean confidence as
    ``score``; ``images/`` with the images; ``pieces/`` with what is finished.

    Its categories are the classes but ``background``, numbered from 1 on unless ``numbering`` says otherwise.
    """

    def __post_init__(self) -> None:
        tools()
        self.refuse_colors()

    def files(self, item: Item) -> Sequence[Path]:
        return (self.folder / "pieces" / f"{picture_name(item)}.json",)

    def write(self, item: Item, image: Tensor | None, labelled: Labelled) -> None:
        height, width = labelled.label.shape
        annotations = []
        for place, cover, score in regions(labelled, [place for place, _ in self.objects()]):
            rle = tools().encode(np.asfortranarray(cover.cpu().numpy().view(np.uint8)))
            annotations.append(
                {"category_id": self._number(place), **_coded(rle), "iscrowd": 0, "score": round(score, 4)}
            )
        name = picture_name(item)
        place_picture(self.folder / "images", item, image, name)
        described = {"file_name": name, "width": width, "height": height}
        write_json(self.files(item)[-1], {"image": described, "annotations": annotations}, indent=None)

    def finish(self, items: Sequence[Item]) -> None:
        categories = [{"id": self._number(place), "name": name} for place, name in self.objects()]
        with whole_file(self.folder / "annotations.json") as file:  # as it goes: run lengths of a corpus are large
            file.write(b'{"categories": ' + json.dumps(categories).encode() + b',\n"images": [')
            for number, piece in enumerate(self._pieces(items)):
                file.write((",\n" if number else "\n").encode() + _line(number, piece["image"]))
            file.write(b'],\n"annotations": [')
            number = 0
            for image, piece in enumerate(self._pieces(items), 1):
                for annotation in piece["annotations"]:
                    line = _line(number, {"image_id": image, **annotation})
                    file.write((",\n" if number else "\n").encode() + line)
                    number += 1
            file.write(b"]}\n")

    def remarks(self) -> list[str]:
        return self.remarks_on_background()

    def _number(self, place: int) -> int:
        if self.numbering is None:
            return [number for number, _ in self.objects()].index(place) + 1
        code = self.numbering.codes[place]
        assert isinstance(code, int)
        return code

    def _pieces(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        for item in items:
            yield read_json(self.files(item)[-1], "delete it and run the command again")


def _coded(rle: Any) -> dict[str, Any]:
    """Run lengths, area and box as JSON has them."""
    coded = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    return {"segmentation": coded, "area": int(tools().area(rle)), "bbox": tools().toBbox(rle).tolist()}


def _line(number: int, content: dict[str, Any]) -> bytes:
    """An entry of a list, numbered from 1 on."""
    return json.dumps({"id": number + 1, **content}).encode()
