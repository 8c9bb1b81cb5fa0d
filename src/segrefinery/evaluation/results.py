"""What a run knows of its own quality: scores by class, and each image's counts for paired comparisons."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json, unreadable, whole_file, write_json
from segrefinery.data.datasets import Part
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.evaluation.scoring import Evaluation
from segrefinery.labels import LabelSpace

REMEDY = "delete it and the folder evaluation/, and continue the run with --resume, which makes them again"


def scores_of(counts: ConfusionMatrix, space: LabelSpace, left_out: Collection[str] = ()) -> dict[str, Any]:
    """Scores as plain numbers in [0, 1]; a class that does not occur has a null IoU.

    Args:
        left_out: classes that the labels cannot show. Predicting one is a mistake on the class it hides, but it has no
            IoU of its own and no part in the mean.
    """
    iou = {
        name: None if value != value or name in left_out else value
        for name, value in zip(space.classes, counts.iou.tolist(), strict=True)
    }
    counted = [value for value in iou.values() if value is not None]
    return {
        "miou": sum(counted) / len(counted) if left_out and counted else counts.miou,
        "iou": iou,
        "pixel_accuracy": counts.pixel_accuracy,
        "mean_pixel_accuracy": counts.mean_pixel_accuracy,
        "images_pixels": int(counts.matrix.sum()),
    }


def scores_by_set(
    evaluation: Evaluation, parts: Sequence[Part], space: LabelSpace, left_out: Collection[str] = ()
) -> dict[str, Any]:
    """Scores on each of the data sets that the images were joined of, by its name, as of this set alone: the classes
    that its own labels cannot show have no part in its mean either."""
    by_set, start = {}, 0
    for part in parts:
        counts = ConfusionMatrix(space.num_classes)
        counts.matrix += evaluation.per_image[start : start + part.images].sum(dim=0)
        beside = [name for name in space.classes if name not in part.classes]
        by_set[part.reference] = scores_of(counts, space, {*left_out, *beside})
        start += part.images
    return by_set


def is_evaluated(folder: Path, stage: str) -> bool:
    """Whether a stage's scores and counts are kept already."""
    return evaluation_file(folder, stage).exists() and stage in read_results(folder).get("stages", {})


def evaluation_file(folder: Path, stage: str) -> Path:
    return folder / "evaluation" / f"{stage}.npz"


def keep_evaluation(
    folder: Path, stage: str, evaluation: Evaluation, scores: dict[str, Any], space: LabelSpace, source_only: bool
) -> None:
    """Add a stage's ``scores_of`` to ``results.json`` and keep its per-image counts as ``evaluation/STAGE.npz``."""
    results = read_results(folder)
    results["classes"] = list(space.classes)
    results.setdefault("stages", {})[stage] = scores
    results["source_only" if source_only else "adapted"] = scores | {"stage": stage}
    write_results(folder, results)
    with whole_file(evaluation_file(folder, stage)) as file:
        np.savez_compressed(file, per_image=evaluation.per_image.numpy())


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write ``results.json`` whole or not at all."""
    write_json(folder / "results.json", results)


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` of a run folder; empty if nothing was evaluated yet.

    Raises:
        SegRefineryError: it cannot be read, or holds no mapping.
    """
    path = folder / "results.json"
    results = read_json(path, REMEDY) if path.exists() else {}
    if not isinstance(results, dict):
        raise SegRefineryError(f"{path}: holds no mapping of names to scores; {REMEDY}")
    return results


def per_image_counts(folder: Path, stage: str) -> torch.Tensor:
    """N x C x C counts of a stage's evaluation."""
    return read_counts(evaluation_file(folder, stage))


def read_counts(path: Path) -> torch.Tensor:
    """N x C x C counts that a file keeps."""
    try:
        with np.load(path) as file:
            return torch.from_numpy(file["per_image"])
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise unreadable(path, error, "delete it and continue the run with --resume, which makes it again") from error
