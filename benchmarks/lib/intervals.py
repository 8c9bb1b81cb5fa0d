"""Scores and their bootstrap intervals from the confusion counts of every image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

BOOTSTRAP = 2000


def per_image(folder: Path, stage: str) -> np.ndarray:
    with np.load(folder / "evaluation" / f"{stage}.npz") as file:
        return file["per_image"]


def iou_of(counts: np.ndarray) -> np.ndarray:
    """IoU by class from ... x C x C counts; NaN where a class does not occur."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(-1) + counts.sum(-2) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def paired_interval(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean difference in mIoU of two models, points: seeds and images are drawn again,
    the same for both.

    Args:
        pairs: of each seed the counts N x C x C of ours and of theirs.
    """
    rng = np.random.default_rng(0)
    differences = np.empty(BOOTSTRAP)
    for draw in range(BOOTSTRAP):
        values = []
        for seed in rng.integers(len(pairs), size=len(pairs)):
            a, b = pairs[seed]
            weights = np.bincount(rng.integers(len(a), size=len(a)), minlength=len(a))
            values.append(
                np.nanmean(iou_of(np.tensordot(weights, a, 1))) - np.nanmean(iou_of(np.tensordot(weights, b, 1)))
            )
        differences[draw] = np.mean(values)
    low, high = np.quantile(differences, (0.025, 0.975))
    return 100 * float(low), 100 * float(high)
