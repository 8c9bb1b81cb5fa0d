"""Which images of a data set taught a model with their labels: what it scores on them says nothing."""

from __future__ import annotations

from pathlib import Path

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json
from segrefinery.data.datasets import Chosen, SegmentationDataset, UnlabeledView, open_dataset
from segrefinery.data.labelled import shared_images
from segrefinery.engine.folders import SOURCE_ONLY
from segrefinery.engine.model import origin_of
from segrefinery.engine.record import LABELS


def taught_remark(name: str, folder: Path, images: UnlabeledView) -> str | None:
    """What to know of a model's score on ``images`` where labels of some of them taught it (``--labels``); else None.

    Images are compared by their pixels. Nothing is raised: labels that are gone are a remark too.

    Args:
        name: of the model, in the sentence. folder: of the model, with its ``config.json``.
    """
    labels = origin_of(folder).labels
    if labels is None or folder.name == SOURCE_ONLY:
        return None
    try:
        teachers = teaching_images(open_dataset(labels), folder)
        count = len({place for _, place in shared_images(UnlabeledView(teachers), images)})
    except SegRefineryError as error:
        return f"whether images here are among the labels that taught {name} ({labels}) cannot be said: {error}"
    if not count:
        return None
    return (
        f"{count} of the {len(images)} images taught {name} with their labels ({labels}): its score here is too high; "
        "score it on others, or hold some out with training.holdout or training.cross_fit"
    )


def teaching_images(labels: SegmentationDataset, folder: Path) -> SegmentationDataset:
    """Those of a run's labelled images that taught: all but what was held out."""
    record = next((each / LABELS for each in folder.parents[:2] if (each / LABELS).exists()), None)
    held_out = set() if record is None else set(read_json(record, "remove it to go on").get("held_out", ()))
    if not held_out:
        return labels
    return Chosen(labels, [place for place in range(len(labels)) if labels.name(place) not in held_out])
