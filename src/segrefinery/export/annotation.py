"""Starting masks for annotation tools, and the corrected ones back: CVAT (Segmentation mask 1.1), Label Studio, PNG."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.export.brush import decode_brush, encode_brush
from segrefinery.labels import IGNORE, LabelSpace, key

Color = tuple[int, int, int]
BLACK = (0, 0, 0)


def tool_colors(space: LabelSpace) -> dict[str, Color]:
    """A colour a class, all different. Black is what CVAT leaves unlabelled: only a class ``background`` has it."""
    colors: dict[str, Color] = {}
    for name, color in zip(space.classes, space.colors, strict=True):
        chosen = BLACK if key(name) == "background" else color
        while chosen in colors.values() or (chosen == BLACK and key(name) != "background"):
            chosen = ((chosen[0] + 37) % 256, (chosen[1] + 101) % 256, (chosen[2] + 17) % 256)
        colors[name] = chosen
    return colors


def write_cvat(folder: Path, masks: Mapping[str, np.ndarray], space: LabelSpace) -> None:
    """Write ``cvat.zip`` (annotations in "Segmentation mask 1.1") and ``cvat_labels.json`` (the task's labels, to paste
    into the Raw tab) for the images in ``folder/images``.

    Args:
        masks: file stem -> H x W class ids.
    """
    colors = tool_colors(space)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: space.num_classes] = list(colors.values())
    lines = ["# label:color_rgb:parts:actions"]
    lines += [] if BLACK in colors.values() else ["background:0,0,0::"]
    lines += [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in colors.items()]
    with zipfile.ZipFile(folder / "cvat.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labelmap.txt", "\n".join(lines) + "\n")
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{stem}\n" for stem in masks))
        for stem, mask in masks.items():
            with archive.open(f"SegmentationClass/{stem}.png", "w") as file:
                Image.fromarray(table[mask]).save(file, format="PNG")
            archive.write(folder / "images" / f"{stem}.png", f"JPEGImages/{stem}.png")
    labels = [{"name": name, "color": _hex(color), "attributes": []} for name, color in colors.items()]
    (folder / "cvat_labels.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")


def write_label_studio(folder: Path, masks: Mapping[str, np.ndarray], space: LabelSpace, version: str) -> None:
    """Write ``label_studio.json`` (tasks with brush masks as predictions) and ``label_studio.xml`` (the labelling
    interface) for the images in ``folder/images``, which Label Studio serves as local files."""
    tasks = []
    for stem, mask in masks.items():
        height, width = mask.shape
        regions = [
            {
                "id": f"{stem}-{index}", "type": "brushlabels", "from_name": "classes", "to_name": "image",
                "original_width": width, "original_height": height, "image_rotation": 0,
                "value": {"format": "rle", "rle": encode_brush(mask == index), "brushlabels": [space.classes[index]]},
            }
            for index in np.unique(mask[mask != IGNORE]).tolist()
        ]  # fmt: skip
        data = {"image": f"/data/local-files/?d=images/{stem}.png", "stem": stem}
        tasks.append({"data": data, "predictions": [{"model_version": version, "result": regions}]})
    (folder / "label_studio.json").write_text(json.dumps(tasks) + "\n", encoding="utf-8")
    colors = tool_colors(space).items()
    labels = "\n".join(f'    <Label value="{_xml(name)}" background="{_hex(color)}"/>' for name, color in colors)
    (folder / "label_studio.xml").write_text(
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="classes" toName="image">\n{labels}\n  </BrushLabels>\n</View>\n',
        encoding="utf-8",
    )


def read_masks(folder: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    """The masks that came back: file stem -> H x W int64, 255 where nothing was labelled.

    Args:
        folder: what CVAT exported as "Segmentation mask 1.1", unpacked; or a folder of ``STEM.png`` with class ids or
            with the colours we wrote; or a Label Studio JSON export, or the folder that holds it.
        sizes: the stems that are wanted, and each image's height and width.

    Raises:
        SegRefineryError: masks are missing, of another size, or hold ids, colours or labels that no class has.
    """
    if folder.suffix == ".zip":
        raise SegRefineryError(f"{folder}: unpack the archive and name the folder with --masks")
    if not folder.exists():
        raise SegRefineryError(f"{folder}: no such folder of masks")
    exports = [folder] if folder.is_file() else sorted(folder.glob("*.json"))
    found = _from_pictures(folder, sizes, space) if folder.is_dir() else {}
    if not found:
        for export in exports:
            found |= _from_label_studio(export, sizes, space)
    missing = [stem for stem in sizes if stem not in found]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise SegRefineryError(f"{folder}: has no mask for {len(missing)} of {len(sizes)} audited images: {shown}")
    return found


def _from_pictures(folder: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    places = [folder / "SegmentationClass", folder]
    colors = _label_map(folder / "labelmap.txt", space)
    found = {}
    for stem, size in sizes.items():
        path = next((place / f"{stem}.png" for place in places if (place / f"{stem}.png").exists()), None)
        if path is None:
            continue
        try:
            picture = Image.open(path)
            picture.load()
        except OSError as error:
            raise SegRefineryError(f"{path}: the mask cannot be read ({error})") from error
        if (picture.height, picture.width) != tuple(size):
            raise SegRefineryError(
                f"{path}: the mask is {picture.height} x {picture.width}, its image {size[0]} x {size[1]}; "
                "export it at the image's own size"
            )
        if picture.mode in ("L", "P", "1") and colors is None:
            found[stem] = _checked_ids(path, np.array(picture.convert("L") if picture.mode == "1" else picture), space)
        else:
            table = colors or {color: index for index, color in enumerate(tool_colors(space).values())}
            found[stem] = _by_color(path, np.array(picture.convert("RGB")), table)
    return found


def _checked_ids(path: Path, ids: np.ndarray, space: LabelSpace) -> Tensor:
    unknown = sorted({int(i) for i in np.unique(ids)} - set(range(space.num_classes)) - {IGNORE})
    if unknown:
        raise SegRefineryError(
            f"{path}: unknown ids {', '.join(map(str, unknown[:10]))}; the classes are 0 to {space.num_classes - 1}, "
            f"and {IGNORE} is ignored"
        )
    return torch.from_numpy(ids.astype(np.int64))


def _by_color(path: Path, picture: np.ndarray, table: Mapping[Color, int]) -> Tensor:
    packed = picture.astype(np.int64) @ np.array([65536, 256, 1])
    known = {red * 65536 + green * 256 + blue: index for (red, green, blue), index in table.items()}
    known.setdefault(0, IGNORE)
    values, inverse = np.unique(packed, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in known]
    if unknown:
        shown = ", ".join(f"({v >> 16}, {v >> 8 & 255}, {v & 255})" for v in unknown[:5])
        raise SegRefineryError(f"{path}: unknown colours {shown}; export the masks without smoothing, as PNG")
    ids = np.array([known[value] for value in values.tolist()], dtype=np.int64)
    return torch.from_numpy(ids[inverse].reshape(packed.shape))


def _label_map(path: Path, space: LabelSpace) -> dict[Color, int] | None:
    """Colours of a labelmap.txt; None if there is none."""
    if not path.exists():
        return None
    ids = {key(name): index for index, name in enumerate(space.classes)}
    table: dict[Color, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, color, *_ = line.split(":")
            red, green, blue = (int(part) for part in color.split(","))
        except ValueError:
            raise SegRefineryError(f"{path}: cannot read {line!r}; expected NAME:R,G,B::") from None
        if key(name) not in ids and key(name) != "background":
            raise SegRefineryError(f"{path}: unknown label {name!r}; the classes are {', '.join(space.classes)}")
        table[red, green, blue] = ids.get(key(name), IGNORE)
    return table


def _from_label_studio(path: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SegRefineryError(f"{path}: not a Label Studio JSON export ({error})") from error
    found = {}
    for task in tasks if isinstance(tasks, list) else [tasks]:
        data = task.get("data", {}) if isinstance(task, dict) else {}
        stem = data.get("stem") or Path(str(data.get("image", ""))).stem
        if stem in sizes and (regions := list(_regions(task))):
            found[stem] = _paint(path, stem, regions, sizes[stem], space)
    return found


def _regions(task: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The brush regions of the task's last annotation."""
    for annotation in task.get("annotations", [])[-1:]:
        yield from (region for region in annotation.get("result", []) if region.get("type") == "brushlabels")


def _paint(
    path: Path, stem: str, regions: Sequence[Mapping[str, Any]], size: tuple[int, int], space: LabelSpace
) -> Tensor:
    mask = np.full(size, IGNORE, dtype=np.int64)
    ids = {key(name): index for index, name in enumerate(space.classes)}
    for region in regions:
        own = (region.get("original_height"), region.get("original_width"))
        if own != tuple(size):
            raise SegRefineryError(f"{path}: {stem} was labelled at {own[0]} x {own[1]}, it is {size[0]} x {size[1]}")
        name = str(region["value"]["brushlabels"][0])
        if key(name) not in ids:
            raise SegRefineryError(f"{path}: {stem}: unknown label {name!r}; classes: {', '.join(space.classes)}")
        try:
            mask[decode_brush(region["value"]["rle"], *size)] = ids[key(name)]
        except ValueError as error:
            raise SegRefineryError(f"{path}: {stem}: {error}") from error
    return torch.from_numpy(mask)


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _xml(text: str) -> str:
    for plain, code in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;")):
        text = text.replace(plain, code)
    return text
