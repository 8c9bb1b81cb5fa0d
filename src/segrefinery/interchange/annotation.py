"""Starting masks for annotation tools, and the corrected ones back: CVAT (Segmentation mask 1.1), Label Studio, PNG."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import readable, whole_file, write_json, write_text
from segrefinery.data.annotations.brush import encode_brush
from segrefinery.data.annotations.label_studio import read_label_studio
from segrefinery.data.decoding import decoded, ids_and_alpha, is_grey, without_alpha
from segrefinery.interchange.regions import read_regions, region_files
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
    with (
        whole_file(folder / "cvat.zip", durable=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("labelmap.txt", "\n".join(lines) + "\n")
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{stem}\n" for stem in masks))
        for stem, mask in masks.items():
            with archive.open(f"SegmentationClass/{stem}.png", "w") as entry:
                Image.fromarray(table[mask]).save(entry, format="PNG")
            archive.write(folder / "images" / f"{stem}.png", f"JPEGImages/{stem}.png")
    labels = [{"name": name, "color": _hex(color), "attributes": []} for name, color in colors.items()]
    write_json(folder / "cvat_labels.json", labels, indent=1)


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
    write_json(folder / "label_studio.json", tasks, indent=None)
    colors = tool_colors(space).items()
    labels = "\n".join(f'    <Label value="{_xml(name)}" background="{_hex(color)}"/>' for name, color in colors)
    write_text(
        folder / "label_studio.xml",
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="classes" toName="image">\n{labels}\n  </BrushLabels>\n</View>\n',
    )


def read_masks(folder: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    """The masks that came back: file stem -> H x W int64, 255 where nothing was labelled.

    Args:
        folder: what CVAT exported as "Segmentation mask 1.1", "CVAT for images 1.1" or COCO, unpacked; or a folder of
            ``STEM.png`` with class ids or with the colours we wrote (two classes may be 0 and 255); or a Label Studio
            JSON or JSON-MIN export, or the folder that holds it.
        sizes: the stems that are wanted, and each image's height and width.

    Raises:
        SegRefineryError: masks are missing, of another size, or hold ids, colours or labels that no class has.
    """
    if folder.suffix == ".zip":
        raise SegRefineryError(f"{folder}: unpack the archive and name the folder with --masks")
    if not folder.exists():
        raise SegRefineryError(f"{folder}: no such folder of masks")
    masks = _from_pictures(folder, sizes, space) if folder.is_dir() else {}
    if not masks:
        described = region_files(folder)
        for kind, file in described:
            masks |= read_regions(kind, file, sizes, space)
        candidates = [folder] if folder.is_file() else sorted(folder.glob("*.json"))
        exports = [export for export in candidates if export not in [file for _, file in described]]
        for export in exports:
            masks |= read_label_studio(export, sizes, space)
        strange = sorted(folder.glob("task-*-annotation-*.png")) if folder.is_dir() else []
        if strange and not exports:
            raise SegRefineryError(
                f"{strange[0]}: the name says a task of Label Studio and not its image; export as JSON too, into the "
                "same folder"
            )
    missing = [stem for stem in sizes if stem not in masks]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise SegRefineryError(f"{folder}: has no mask for {len(missing)} of {len(sizes)} audited images: {shown}")
    return masks


def _from_pictures(folder: Path, sizes: Mapping[str, tuple[int, int]], space: LabelSpace) -> dict[str, Tensor]:
    places = [folder / "SegmentationClass", folder]
    colors = _label_map(folder / "labelmap.txt", space)
    paths = {
        stem: path for stem in sizes if (path := next((p for d in places if (p := d / f"{stem}.png").exists()), None))
    }
    colored = colors is None and any(_is_colored(path) for path in paths.values())
    by_color = {
        stem: colors is not None or (colored and decoded(path, "mask").ndim == 3) for stem, path in paths.items()
    }
    read = {stem: ids_and_alpha(path) for stem, path in paths.items() if not by_color[stem]}
    ids = {
        stem: held.long() if hidden is None else held.long().masked_fill(hidden, 0)
        for stem, (held, hidden) in read.items()
    }
    # 255 is a class where there are two and nothing else can be the second: to ignore it would leave one.
    values = {value for each in ids.values() for value in each.unique().tolist()}
    second = 1 if space.num_classes == 2 and values == {0, IGNORE} else IGNORE
    masks = {}
    for stem, path in paths.items():
        if by_color[stem]:
            table = colors or {color: index for index, color in enumerate(tool_colors(space).values())}
            mask = _by_color(path, decoded(path, "mask", rgb=True), table)
        else:
            mask = _checked_ids(path, ids[stem], space).masked_fill(ids[stem] == IGNORE, second)
            mask = mask if (hidden := read[stem][1]) is None else mask.masked_fill(hidden, IGNORE)
        if tuple(mask.shape) != tuple(sizes[stem]):
            raise SegRefineryError(
                f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]}, its image {sizes[stem][1]} x "
                f"{sizes[stem][0]} pixels; export it at the image's own size"
            )
        masks[stem] = mask
    return masks


def _is_colored(path: Path) -> bool:
    """Whether it is a colour picture, and not grey in three channels."""
    return not is_grey(without_alpha(decoded(path, "mask"))[0])


def _checked_ids(path: Path, ids: Tensor, space: LabelSpace) -> Tensor:
    unknown = sorted(set(ids.unique().tolist()) - set(range(space.num_classes)) - {IGNORE})
    if unknown:
        raise SegRefineryError(
            f"{path}: unknown ids {', '.join(map(str, unknown[:10]))}; the classes are 0 to {space.num_classes - 1}, "
            f"and {IGNORE} is ignored"
        )
    return ids


def _by_color(path: Path, picture: np.ndarray, table: Mapping[Color, int]) -> Tensor:
    picture, transparent = without_alpha(picture)
    packed = picture.astype(np.int64) @ np.array([65536, 256, 1])
    packed = packed if transparent is None else np.where(transparent, 0, packed)
    known = {red * 65536 + green * 256 + blue: index for (red, green, blue), index in table.items()}
    known.setdefault(0, IGNORE)
    values, inverse = np.unique(packed, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in known]
    if unknown:
        shown = ", ".join(f"({v >> 16}, {v >> 8 & 255}, {v & 255})" for v in unknown[:5])
        raise SegRefineryError(f"{path}: unknown colours {shown}; export the masks without smoothing, as PNG")
    ids = np.array([known[value] for value in values.tolist()], dtype=np.int64)
    mask = torch.from_numpy(ids[inverse].reshape(packed.shape))
    return mask if transparent is None else mask.masked_fill(torch.from_numpy(transparent), IGNORE)


def _label_map(path: Path, space: LabelSpace) -> dict[Color, int] | None:
    """Colours of a labelmap.txt; None if there is none."""
    if not path.exists():
        return None
    ids = {key(name): index for index, name in enumerate(space.classes)}
    table: dict[Color, int] = {}
    for line in readable(path).read_text(encoding="utf-8-sig").splitlines():
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


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _xml(text: str) -> str:
    for sign, code in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;")):
        text = text.replace(sign, code)
    return text
