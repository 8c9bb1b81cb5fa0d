"""How fast images of each kind reach the network: by our data sets beside plain decoding by the format's own library.

The same pictures of 2048 x 1024 with the same regions as masks are written in every form, and read on one thread; what
counts is processor time. "Plain" is what a few lines with that library cost that verify nothing and keep the stored
numbers: image and mask as arrays. Our data sets also verify what they read, and give 8-bit images and checked labels.
Of polygons the plain way paints every time, ours once. A film has no masks. Prints Markdown.

    python benchmarks/cost/loader_kinds.py [--images 6] [--seconds 5] [--kinds PNG COCO]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loader import CROP, SIZE, batched, decoded, photograph, rate

from lib.machine import machine
from segrefinery.core.processor import keep_freed_memory
from segrefinery.core.randomness import generator
from segrefinery.data.datasets import bands_of, open_dataset
from segrefinery.data.films import write_film
from segrefinery.data.transforms import DataSettings

CLASSES = ["ground", "road", "car", "tree", "house", "person"]
REGIONS = 30
FRAMES = 48
LIKE_PHOTOGRAPHS = {"quality": 90}

Outline = tuple[int, np.ndarray]


class Kind(NamedTuple):
    """A form of the pictures: how our data set of it is named, its own library, and how that decodes number i."""

    title: str
    reference: str
    library: str
    plain: Callable[[int], object]
    images: int


def outlines(rng: torch.Generator) -> list[Outline]:
    """Regions of a picture, large ones first: a class, and corners n x 2 (x, y) around a centre."""
    found = []
    for reach in torch.linspace(300, 20, REGIONS).tolist():
        corners = int(torch.randint(8, 40, (1,), generator=rng))
        angles = torch.arange(corners) * (2 * math.pi / corners)
        radii = reach * (0.6 + 0.4 * torch.rand(corners, generator=rng))
        centre = torch.rand(2, generator=rng) * torch.tensor(SIZE[::-1])
        points = centre + radii[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
        inside = points.clamp(min=0).minimum(torch.tensor(SIZE[::-1]) - 1.0)
        found.append((int(torch.randint(1, len(CLASSES), (1,), generator=rng)), inside.numpy().round(1)))
    return found


def drawn(regions: list[Outline]) -> Image.Image:
    """A mask by Pillow."""
    mask = Image.new("L", SIZE[::-1])
    draw = ImageDraw.Draw(mask)
    for place, corners in regions:
        draw.polygon([(x, y) for x, y in corners.tolist()], fill=place, outline=place)
    return mask


class Originals:
    """The pictures and their regions, and a folder for what is written of them."""

    def __init__(self, folder: Path, images: int) -> None:
        rngs = [generator("kinds", index) for index in range(images)]
        self.folder = folder
        self.stored = [photograph(rng, bands=6).permute(1, 2, 0).numpy() for rng in rngs]
        self.pictures = [np.ascontiguousarray(each[..., :3]) for each in self.stored]
        self.regions = [outlines(rng) for rng in rngs]
        self.masks = [drawn(regions) for regions in self.regions]
        (folder / "classes.txt").write_text("\n".join(CLASSES))

    def __len__(self) -> int:
        return len(self.pictures)

    def place(self, kind: str, images: str = "images") -> Path:
        (self.folder / kind / images).mkdir(parents=True)
        return self.folder / kind


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def by_pillow(image: Path | io.BytesIO, mask: Path | io.BytesIO | None = None) -> list[np.ndarray]:
    arrays = []
    for file in (image, mask):
        if file is not None:
            with Image.open(file) as opened:
                arrays.append(np.asarray(opened))
    return arrays


def files(of: Originals, kind: str, ending: str, write: Callable[[Path, int], None], more: str = "") -> Path:
    """A folder of images with PNG masks and its ``dataset.yaml``."""
    root = of.place(kind)
    (root / "masks").mkdir()
    for index, mask in enumerate(of.masks):
        write(root / f"images/{index}.{ending}", index)
        mask.save(root / f"masks/{index}.png")
    text = f"images: 'images/{{name}}.{ending}'\nmasks: 'masks/{{name}}.png'\nclasses: [{', '.join(CLASSES)}]\n{more}"
    (root / "dataset.yaml").write_text(text)
    return root


def plain_files(of: Originals) -> Iterator[Kind]:
    """PNG, JPEG, BMP and WebP."""
    import simplejpeg

    def by_simplejpeg(image: Path, mask: Path) -> None:
        simplejpeg.decode_jpeg(image.read_bytes())
        by_pillow(mask)

    for title, ending, options in (("PNG", "png", {}), ("JPEG", "jpg", LIKE_PHOTOGRAPHS), ("BMP", "bmp", {}),
                                   ("WebP", "webp", LIKE_PHOTOGRAPHS)):  # fmt: skip

        def write(path: Path, index: int, options: dict[str, int] = options) -> None:
            Image.fromarray(of.pictures[index]).save(path, **options)

        root, library = files(of, ending, ending, write), "simplejpeg" if title == "JPEG" else "Pillow"
        read = by_simplejpeg if title == "JPEG" else by_pillow

        def plain(index: int, read: Any = read, root: Path = root, ending: str = ending) -> object:
            return read(root / f"images/{index}.{ending}", root / f"masks/{index}.png")

        yield Kind(title, f"folder:{root}", library, plain, len(of))


def tiffs(of: Originals) -> Iterator[Kind]:
    """TIFF in tiles: colours of 8 bits, and six bands of 16."""
    import tifffile

    how = {"tile": (512, 512), "compression": "zlib"}
    for title, kind, bands, bits in (("TIFF, 8 bits", "tiff8", 3, 8), ("TIFF, 16 bits, six bands", "tiff16", 6, 16)):

        def write(path: Path, index: int, bands: int = bands, bits: int = bits) -> None:
            values = of.stored[index][..., :bands]
            values = values if bits == 8 else values.astype(np.uint16) * 257
            look = "rgb" if bits == 8 else "minisblack"
            tifffile.imwrite(path, np.ascontiguousarray(values), photometric=look, planarconfig="contig", **how)

        more = "" if bits == 8 else "bands: [1, 2, 3, 4, 5, 6]\nrange: [0, 65535]\n"
        root = files(of, kind, "tif", write, more)

        def plain(index: int, root: Path = root) -> None:
            tifffile.imread(root / f"images/{index}.tif")
            by_pillow(root / f"masks/{index}.png")

        yield Kind(title, f"folder:{root}", "tifffile", plain, len(of))


def polygons(of: Originals) -> Iterator[Kind]:
    """COCO, labelme and YOLO with JPEGs."""
    from pycocotools import mask as tools

    def images(root: Path) -> Callable[[int], Path]:
        for index, picture in enumerate(of.pictures):
            Image.fromarray(picture).save(root / f"images/{index}.jpg", **LIKE_PHOTOGRAPHS)
        return lambda index: root / f"images/{index}.jpg"

    def painted(image: Callable[[int], Path], index: int) -> None:
        by_pillow(image(index))
        mask = np.zeros(SIZE, dtype=np.uint8)
        for place, corners in of.regions[index]:
            mask[tools.decode(tools.merge(tools.frPyObjects([corners.ravel().tolist()], *SIZE))) > 0] = place

    def by_draw(image: Callable[[int], Path], index: int) -> None:
        by_pillow(image(index))
        np.asarray(drawn(of.regions[index]))

    root = of.place("coco")
    coco = root / "all.json"
    coco.write_text(json.dumps(coco_content(of)))
    yield Kind("COCO polygons", f"coco:{coco}", "pycocotools, Pillow", partial(painted, images(root)), len(of))
    root = of.place("labelme")
    for index, regions in enumerate(of.regions):
        shapes = [{"label": CLASSES[place], "shape_type": "polygon", "points": corners.tolist()}
                  for place, corners in regions]  # fmt: skip
        content = {"shapes": shapes, "imagePath": f"images/{index}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (root / f"{index}.json").write_text(json.dumps(content))
    yield Kind("labelme polygons", f"labelme:{root}", "Pillow", partial(by_draw, images(root)), len(of))
    root = of.place("yolo")
    (root / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames: [{', '.join(CLASSES)}]\n")
    (root / "labels").mkdir()
    for index, regions in enumerate(of.regions):
        lines = [f"{place} " + " ".join(f"{v:.6f}" for v in (corners / SIZE[::-1]).ravel())
                 for place, corners in regions]  # fmt: skip
        (root / f"labels/{index}.txt").write_text("\n".join(lines))
    yield Kind("YOLO polygons", f"yolo:{root}@train", "pycocotools, Pillow", partial(painted, images(root)), len(of))


def coco_content(of: Originals) -> dict[str, Any]:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(len(of))]
    annotations = [
        {"image_id": index, "category_id": place, "iscrowd": 0, "segmentation": [corners.ravel().tolist()]}
        for index, regions in enumerate(of.regions)
        for place, corners in regions
    ]
    annotations = [{"id": number, **each} for number, each in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": [
        {"id": place, "name": name} for place, name in enumerate(CLASSES)
    ]}  # fmt: skip


def films(of: Originals) -> Iterator[Kind]:
    """A film of the pictures as they move to the left."""
    import av

    def frame(index: int) -> np.ndarray:
        return np.roll(of.pictures[index * len(of) // FRAMES], -8 * index, axis=1)

    path = of.place("film") / "film.mp4"
    write_film(path, map(frame, range(FRAMES)), 25.0)
    left: Iterator[Any] = iter(())

    def plain(index: int) -> object:
        nonlocal left
        if not index:
            left = av.open(str(path)).decode(video=0)
        return next(left).to_ndarray(format="rgb24")

    yield Kind("film, frames in order", str(path), "PyAV", plain, FRAMES)


def shards(of: Originals) -> Iterator[Kind]:
    """A tar file of JPEGs and PNG masks, which the plain way reads as a stream."""
    path = of.place("shards") / "0.tar"
    with tarfile.open(path, "w") as tar:
        for index, picture in enumerate(of.pictures):
            for name, content in ((f"{index}.jpg", encoded(Image.fromarray(picture), "JPEG", **LIKE_PHOTOGRAPHS)),
                                  (f"{index}.mask.png", encoded(of.masks[index], "PNG"))):  # fmt: skip
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    members: Iterator[bytes] = iter(())

    def contents() -> Iterator[bytes]:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                yield file.read()

    def plain(index: int) -> object:
        nonlocal members
        if not index:
            members = contents()
        return by_pillow(io.BytesIO(next(members)), io.BytesIO(next(members)))

    yield Kind("WebDataset shard", f"shards:{path},classes={of.folder}/classes.txt", "tarfile, Pillow", plain, len(of))


def tables(of: Originals) -> Iterator[Kind]:
    """A local data set of Hugging Face, saved with the content of its JPEGs and PNG masks."""
    import datasets

    datasets.disable_progress_bars()
    cells = [
        [{"path": None, "bytes": each} for each in column]
        for column in (
            [encoded(Image.fromarray(picture), "JPEG", **LIKE_PHOTOGRAPHS) for picture in of.pictures],
            [encoded(mask, "PNG") for mask in of.masks],
        )
    ]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    root = of.place("hfds") / "saved"
    datasets.Dataset.from_dict({"image": cells[0], "label": cells[1]}, features=features).save_to_disk(root)
    rows: Any = datasets.load_from_disk(root)

    def plain(index: int) -> list[np.ndarray]:
        row = rows[index]
        return [np.asarray(row["image"]), np.asarray(row["label"])]

    reference = f"hfds:{root},classes={of.folder}/classes.txt"
    yield Kind("Hugging Face, saved locally", reference, "datasets, Pillow", plain, len(of))


def each(plain: Callable[[int], object], images: int) -> Iterator[int]:
    """The images in turn, for ever."""
    while True:
        for index in range(images):
            plain(index)
            yield 1


def line(kind: Kind, seconds: float) -> str:
    """A row of the table."""
    data = open_dataset(kind.reference)
    settings = DataSettings(crop=CROP, scale=(0.5, 1.5), batch=2)
    if (bands := bands_of(data)) != 3:
        settings = settings.model_copy(update={"pixel_mean": (0.5,) * bands, "pixel_std": (0.25,) * bands})
    ours = partial(decoded, data) if data.has_labels else partial(each, data.image, len(data))
    plain = rate(partial(each, kind.plain, kind.images), seconds)
    read, trained = rate(ours, seconds), rate(batched(data, settings), seconds)
    shares = " | ".join(f"{value:.1f} | {value / plain:.2f}" for value in (read, trained))
    return f"| {kind.title} | {kind.library} | {plain:.1f} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--kinds", nargs="*", default=[""], help="words of the titles; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    print(f"{machine()}; crops of {CROP[0]} x {CROP[1]} from {SIZE[1]} x {SIZE[0]}\n")
    print("| kind | plain decoding by | images/s per core | ours | against plain | training batches | against plain |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        os.environ["SEGREFINERY_CACHE"] = f"{name}/cache"
        of = Originals(Path(name), options.images)
        for make in (plain_files, tiffs, polygons, films, shards, tables):
            for kind in make(of):
                if any(word.lower() in kind.title.lower() for word in options.kinds):
                    print(line(kind, options.seconds), flush=True)


if __name__ == "__main__":
    main()
