"""Score a model on labelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import classes_beside, evaluation_view
from segrefinery.data.datasets import UnlabeledView, parts_of, picture_of
from segrefinery.data.settings import References
from segrefinery.engine.model import Model, load
from segrefinery.evaluation.results import scores_by_set, scores_of
from segrefinery.evaluation.scoring import evaluate_network
from segrefinery.verbs.named import named_images, open_scored
from segrefinery.verbs.taught import taught_remark
from segrefinery.verbs.zoom import warn_of_reading


@checked
def evaluate(
    run: str | Path | Model,
    on: References,
    *,
    classes: str | Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Scores of a model on labelled images: ``miou``, ``iou`` by class, ``pixel_accuracy``, ``mean_pixel_accuracy``,
    and ``missing``, the model's classes that are not scored: no label of the images can be one of them.

    Args:
        on: a data set, or several in a list, whose scores are those of all images together and, in ``sets``, of each.
        classes: the only classes whose pixels are scored, for instance ``synthia13``, or names. The model still
            chooses among all of its own, and ``miou`` is the mean over these.

    Raises:
        SegRefineryError: the images have no masks, or no pixel of theirs is labelled with one of the classes.
    """
    model = run if isinstance(run, Model) else load(run)
    on = named_images("on", on)
    dataset = open_scored("on", on)
    if not dataset.has_labels:
        raise SegRefineryError(f"{on}: has no masks to evaluate on; name a data set with masks, or use predict")
    model.refuse_other_bands(dataset)
    if model.folder is not None and (remark := taught_remark("this model", model.folder, UnlabeledView(dataset))):
        warnings.warn(f"{on}: {remark}", stacklevel=2)
    view, missing = evaluation_view(dataset, model.space, model.merge, classes)
    warn_of_reading(model, view, picture_of(view, 0).size)
    if beside := classes_beside(dataset, model.space, model.merge):
        warnings.warn(
            f"{on}: pixels of {', '.join(beside)} are not scored, for the model has no such class", stacklevel=2
        )
    scores = evaluate_network(model.network, view, model.data, model.space.num_classes, model.window, progress)
    if not int(scores.total.matrix.sum()):
        raise SegRefineryError(f"{on}: every pixel of its masks is ignored, so there is nothing to score")
    said = scores_of(scores.total, model.space, missing) | {"missing": list(missing)}
    return said | ({"sets": scores_by_set(scores, parts, model.space, missing)} if (parts := parts_of(view)) else {})
