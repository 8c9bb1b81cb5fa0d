"""A prediction as pictures: class ids in their colours, an overlay on the image, and the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrefinery.core.pixels import shown
from segrefinery.data.label_files import file_stem, palette_image, save_png, share_image
from segrefinery.data.tiff import GeoTag
from segrefinery.interchange.raster import write_tiff
from segrefinery.labels import LabelSpace

STRIP = 512
"""Rows that are painted at a time."""


def write_prediction(
    folder: Path,
    index: int,
    name: str,
    image: Tensor,
    label: Tensor,
    confidence: Tensor,
    space: LabelSpace,
    geo: Sequence[GeoTag] = (),
) -> dict[str, Path]:
    """Write ``STEM.png`` (class ids, palette), ``STEM.overlay.png`` and ``STEM.confidence.png`` (0..255 for 0..1).
    What lies somewhere on earth is written as ``STEM.tif`` and ``STEM.confidence.tif``.

    Args:
        index: number of the image; the stem is made of it and of ``name``, and is safe whatever the name holds.
        image: uint8, bands x H x W. label: H x W class ids. confidence: H x W in [0, 1].
        geo: tags of a GeoTIFF of this size.

    Returns:
        What was written, by kind: ``label``, ``overlay``, ``confidence``.
    """
    stem = folder / file_stem(index, name)
    suffix = "tif" if geo else "png"
    endings = {"label": suffix, "overlay": "overlay.png", "confidence": f"confidence.{suffix}"}
    paths = {kind: stem.with_name(f"{stem.name}.{ending}") for kind, ending in endings.items()}
    labels, shares = palette_image(label, space), share_image(confidence)
    if geo:
        size = (label.shape[0], label.shape[1])
        write_tiff(paths["label"], [np.asarray(labels)], size, space.colors, geo)
        write_tiff(paths["confidence"], [np.asarray(shares)], size, geo=geo)
    else:
        save_png(paths["label"], labels)
        save_png(paths["confidence"], shares)
    save_png(paths["overlay"], Image.fromarray(overlay(image, label, space)))
    return paths


def overlay(image: Tensor, label: Tensor, space: LabelSpace) -> np.ndarray:
    """H x W x 3 uint8: the mean of the image and the classes' colours; 255 in ``label`` leaves the image as it is."""
    if len(label) > STRIP:  # in wider numbers, of a large image only a part at a time
        parts = zip(image.split(STRIP, dim=1), label.split(STRIP), strict=True)
        return np.concatenate([overlay(*part, space) for part in parts])
    plain, classes = shown(image).cpu().permute(1, 2, 0).numpy(), label.to(torch.uint8).cpu().numpy()
    colors = np.zeros((256, 3), dtype=np.uint16)
    colors[: space.num_classes] = space.colors
    both = colors.take(classes, axis=0) + plain
    both += both >> 1 & 1  # halves become even
    painted = (both >> 1).astype(np.uint8)
    if classes.max(initial=0) >= space.num_classes:
        bare = classes >= space.num_classes
        painted[bare] = plain[bare]
    return painted
