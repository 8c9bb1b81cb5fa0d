"""A prediction as pictures: class ids in their colours, an overlay on the image, and the confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segrefinery.data.label_files import file_stem, palette_image, save_png, share_image
from segrefinery.labels import LabelSpace

OPACITY = 0.5
"""Of the colours in the overlay."""
STRIP = 512
"""Rows that are painted at a time."""


def write_prediction(
    folder: Path, index: int, name: str, image: Tensor, probs: Tensor, space: LabelSpace
) -> dict[str, Path]:
    """Write ``STEM.png`` (class ids, palette), ``STEM.overlay.png`` and ``STEM.confidence.png`` (0..255 for 0..1).

    Args:
        index: number of the image; the stem is made of it and of ``name``, and is safe whatever the name holds.
        image: uint8, 3 x H x W. probs: C x H x W class probabilities.

    Returns:
        What was written, by kind: ``label``, ``overlay``, ``confidence``.
    """
    folder = Path(folder)
    confidence, label = probs.float().max(dim=0)
    stem = folder / file_stem(index, name)
    paths = {
        "label": stem.with_name(f"{stem.name}.png"),
        "overlay": stem.with_name(f"{stem.name}.overlay.png"),
        "confidence": stem.with_name(f"{stem.name}.confidence.png"),
    }
    save_png(paths["label"], palette_image(label, space))
    save_png(paths["overlay"], Image.fromarray(overlay(image, label, space)))
    save_png(paths["confidence"], share_image(confidence))
    return paths


def overlay(image: Tensor, label: Tensor, space: LabelSpace, opacity: float = OPACITY) -> np.ndarray:
    """H x W x 3 uint8: the image with the classes' colours over it; 255 in ``label`` leaves the image as it is."""
    if len(label) > STRIP:  # in floats, of a large image only a part at a time
        parts = zip(image.split(STRIP, dim=1), label.split(STRIP), strict=True)
        return np.concatenate([overlay(*part, space, opacity) for part in parts])
    colors = torch.zeros(256, 3)
    colors[: space.num_classes] = torch.tensor(space.colors, dtype=torch.float32)
    label = label.long().cpu()
    share = torch.where(label < space.num_classes, opacity, 0.0)[..., None]
    plain = image.cpu().permute(1, 2, 0).float()
    return ((1 - share) * plain + share * colors[label]).round().to(torch.uint8).numpy()
