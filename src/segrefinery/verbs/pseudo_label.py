"""Label images for other tools to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.numbering import Numbering, numbered_as, numbering_of
from segrefinery.data.settings import References
from segrefinery.engine.model import Model, load, origin_of
from segrefinery.interchange.labels import LABEL_FORMATS, PngLabels
from segrefinery.verbs.corpus import CorpusResult, Job, write_all
from segrefinery.verbs.named import named_images, open_recorded, refuse_inside


@checked
def pseudo_label(
    run: str | Path | Model,
    target: References,
    output: str | Path,
    threshold: float = 0.0,
    *,
    format: str = "png",
    ids: str | None = None,
    names: Literal["numbered", "images"] = "numbered",
    engine: str = "local",
    workers: Annotated[int, Field(ge=1)] = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Label images for other tools to train on -> how many are labelled.

    Images are read and written one by one, at their own size; those that are finished, by the same model and settings,
    are not done again.

    Args:
        threshold: pixels whose confidence is below it are ignored and weigh 0.
        format: ``png``, for each image ``STEM.png`` (class ids with their colours, 255 ignored) and ``STEM.weight.png``
            (confidence as 0..255), and once ``classes.json``; or ``coco``, ``yolo`` or ``parquet``.
        ids: ``source`` writes the ids and the palette of the model's source; any labelled data set's name those of its.
        engine: ``ray`` shares the images among so many ``workers`` of Ray; torchrun's processes share them anyway.
        names: ``images`` calls PNGs as the images are called, in ``labels/`` and ``weights/``.

    Raises:
        SegRefineryError: the folder cannot be written or holds labels of other settings, or an image cannot be read;
            the others are labelled then.
    """
    result = write_labels(
        run, target, output, threshold, format=format, ids=ids, names=names, engine=engine, workers=workers,
        progress=progress,
    )  # fmt: skip
    result.refuse_missing()
    return result.written


def write_labels(
    run: str | Path | Model,
    target: References,
    output: str | Path,
    threshold: float = 0.0,
    *,
    format: str = "png",
    ids: str | None = None,
    names: str = "numbered",
    engine: str = "local",
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CorpusResult:
    """As ``pseudo_label``; says which images were left out and which were finished before."""
    model = run if isinstance(run, Model) else load(run)
    dataset = UnlabeledView(open_dataset(named_images("target", target)))
    refuse_inside(output, dataset)
    model.refuse_other_bands(dataset)
    kind: Any = choose(LABEL_FORMATS, format, "format")
    if not 0 <= threshold <= 1:
        raise SegRefineryError(f"--threshold {threshold}: write a confidence from 0 to 1")
    if names not in ("numbered", "images"):
        raise SegRefineryError(f"--names {names}: write numbered or images")
    numbering = None if ids is None else source_numbering(run, model, ids)
    more = {"named_as_images": True} if kind is PngLabels and names == "images" else {}
    writer = kind(Path(output), model.space, numbering, threshold, **more)
    coded = None if numbering is None else str(numbering.codes)
    settings = {"threshold": threshold, "format": format, "ids": coded, "names": names}
    return write_all(Job(model, dataset, writer), settings, progress, engine, workers)


def source_numbering(run: str | Path | Model, model: Model, ids: str) -> Numbering:
    """The ids of a data set for the classes of a model.

    Args:
        ids: ``source`` for the data that the model of ``run`` was trained on, or a data set's name.

    Raises:
        SegRefineryError: nothing says the source, or it lacks a class.
    """
    if ids != "source":
        return numbered_as(model.space, numbering_of(open_dataset(ids)), model.merge)
    if isinstance(run, Model) or (known := origin_of(run).source) is None:
        raise SegRefineryError("--ids source: the model does not say its source; name it, as in --ids gta5:PATH")
    source = open_recorded(run, "source", known, "Name it as it is called here, as in --ids gta5:PATH")
    return numbered_as(model.space, numbering_of(source), model.merge)
