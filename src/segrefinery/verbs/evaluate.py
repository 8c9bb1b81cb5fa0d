"""Score a model on labelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import classes_beside, evaluation_view
from segrefinery.data.datasets import UnlabeledView, open_dataset, picture_of
from segrefinery.engine.model import Model, load
from segrefinery.evaluation.results import scores_of
from segrefinery.evaluation.scoring import evaluate_network
from segrefinery.verbs.taught import taught_remark
from segrefinery.verbs.zoom import warn_of_reading


def evaluate(
    run: str | Path | Model,
    on: str | Path,
    *,
    classes: str | Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Scores of a model on labelled images: ``miou``, ``iou`` by class, ``pixel_accuracy``, ``mean_pixel_accuracy``,
    and ``missing``, the model's classes that are not scored: no label of the images can be one of them.

    Args:
        classes: the only classes whose pixels are scored, for instance ``synthia13``, or names. The model still
            chooses among all of its own, and ``miou`` is the mean over these.

    Raises:
        SegRefineryError: the images have no masks, or no pixel of theirs is labelled with one of the classes.
    """
    model = run if isinstance(run, Model) else load(run)
    dataset = open_dataset(str(on))
    if not dataset.has_labels:
        raise SegRefineryError(f"{on}: has no masks to evaluate on; name a data set with masks, or use predict")
    model.refuse_other_bands(dataset)
    warn_of_reading(model, dataset, picture_of(dataset, 0).size)
    if model.folder is not None and (remark := taught_remark("this model", model.folder, UnlabeledView(dataset))):
        warnings.warn(f"{on}: {remark}", stacklevel=2)
    view, missing = evaluation_view(dataset, model.space, model.merge, classes)
    if beside := classes_beside(dataset, model.space, model.merge):
        warnings.warn(
            f"{on}: pixels of {', '.join(beside)} are not scored, for the model has no such class", stacklevel=2
        )
    scores = evaluate_network(model.network, view, model.data, model.space.num_classes, model.window, progress).total
    if not int(scores.matrix.sum()):
        raise SegRefineryError(f"{on}: every pixel of its masks is ignored, so there is nothing to score")
    return scores_of(scores, model.space, missing) | {"missing": list(missing)}
