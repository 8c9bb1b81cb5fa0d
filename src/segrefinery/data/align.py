"""One label space for source, target and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.annotations.recognize import hint
from segrefinery.data.datasets import ImageDataset, Remapped, SegmentationDataset, UnlabeledView, bands_of
from segrefinery.data.described import how_to_describe
from segrefinery.data.faults import DataError
from segrefinery.labels import (
    SPACES,
    LabelSpace,
    Merge,
    check_merge,
    common_space,
    match,
    merged,
    parse_space,
    renamed,
)


class Alignment(NamedTuple):
    """Source (if there is one), target and evaluation in one label space; ``sentence`` tells which classes are used."""

    space: LabelSpace
    source: SegmentationDataset | None
    target: UnlabeledView
    evaluation: SegmentationDataset | None
    sentence: str
    ignored: dict[str, tuple[str, ...]]
    """Side -> its classes that are not used."""
    labels: SegmentationDataset | None = None
    """Labelled target images that teach."""
    unscored: tuple[str, ...] = ()
    """The classes that no label of the evaluation can be."""
    untold: tuple[str, ...] = ()
    """The classes that no label of ``labels`` can be."""


def align(
    source: SegmentationDataset,
    target: ImageDataset,
    evaluation: SegmentationDataset | None = None,
    space: LabelSpace | str | Sequence[str] | None = None,
    merge: Merge | None = None,
    labels: SegmentationDataset | None = None,
) -> Alignment:
    """Bring the data of a run into one label space.

    The space is ``space`` where given (a space, its name, or class names). Else it is the classes that the source has
    in common with the evaluation, or without one with the target, or the source's own. The target loses its labels.

    Args:
        merge: renames classes on all sides before they are compared: name -> name, or None to ignore the class.
        labels: labelled target images that teach. They change no classes, but ``space`` may ask for one of theirs.

    Raises:
        SegRefineryError: the source, the labels or the evaluation have no labels, there is no common class, or
            ``space`` asks for a class that nothing teaches.
    """
    _refuse_what_does_not_fit(source, target, evaluation, labels)
    assert source.space is not None
    other = evaluation.space if evaluation is not None else target.space
    spaces = [source.space] if other is None else [source.space, other]
    label_space = None if labels is None else labels.space
    check_merge(merge, *spaces, *([] if label_space is None else [label_space]))
    if space is not None:
        chosen = _forced(parse_space(space), source.space, merge, label_space)
    elif other is not None:
        chosen = _common(source.space, other, "target" if evaluation is None else "evaluation", merge)
    else:
        chosen = merged(source.space, merge)
    ignored = {"source": _lost(source.space, chosen, merge)}
    if other is not None:
        ignored["target" if evaluation is None else "evaluation"] = _lost(other, chosen, merge)
    if label_space is not None:
        ignored["labels"] = _lost_of_labels(label_space, chosen, merge)
    view = None if evaluation is None else _scored(Remapped(evaluation, chosen, merge), chosen)
    sentence = f"{chosen.num_classes} classes: {', '.join(chosen.classes)}"
    return _together(sentence, Remapped(source, chosen, merge), target, view, labels, chosen, merge, ignored)


def _together(
    sentence: str,
    source: Remapped | None,
    target: ImageDataset,
    evaluation: Remapped | None,
    labels: SegmentationDataset | None,
    space: LabelSpace,
    merge: Merge | None,
    ignored: dict[str, tuple[str, ...]],
) -> Alignment:
    """What the sides of a run are together, and its ``sentence`` to the end."""
    taught = None if labels is None else Remapped(labels, space, merge)
    unscored = () if evaluation is None else evaluation.lacks
    if unscored:
        sentence += f"; not scored, for no label of the evaluation is one: {', '.join(unscored)}"
    sentence = f"{sentence}{_ignored(ignored)}."
    untold = () if taught is None else taught.lacks
    return Alignment(space, source, UnlabeledView(target), evaluation, sentence, ignored, taught, unscored, untold)


def _lost_of_labels(labels: LabelSpace, chosen: LabelSpace, merge: Merge | None) -> tuple[str, ...]:
    """The classes of labels that a run has not.

    Raises:
        SegRefineryError: these are all.
    """
    lost = _lost(labels, chosen, merge)
    if len(lost) == labels.num_classes:
        raise SegRefineryError(
            f"labels {labels.name}: no class is one of the run's. They have: {', '.join(labels.classes)}; the run has: "
            f"{', '.join(chosen.classes)}. Say with merge which classes are the same."
        )
    return lost


def _refuse_what_does_not_fit(
    source: SegmentationDataset | None,
    target: ImageDataset,
    evaluation: SegmentationDataset | None,
    labels: SegmentationDataset | None,
) -> None:
    """Refuse a source, labels or evaluation without masks, and images of other bands than the first of them all."""
    for role, dataset in (("source", source), ("labels", labels), ("evaluation", evaluation)):
        if dataset is not None and (dataset.space is None or not dataset.has_labels):
            path = Path(dataset.reference).expanduser()
            line = hint(path) or (how_to_describe(path) if path.is_dir() else "")
            needed = f"every image here needs a mask{line and '; '}{line}"
            raise SegRefineryError(f"{role} {dataset.reference}: has no labels; {needed}.")
    _refuse_other_bands(target if source is None else source, target, evaluation, labels)


def _refuse_other_bands(first: ImageDataset, *others: ImageDataset | None) -> None:
    """Refuse images that have other bands than those of the first data set."""
    for dataset in others:
        if dataset is not None and bands_of(dataset) != bands_of(first):
            problem = f"its images have {bands_of(dataset)} bands, those of {first.reference} {bands_of(first)}"
            raise DataError(dataset.reference, "bands", problem, "name as many bands in each dataset.yaml")


def align_to_model(
    space: LabelSpace,
    target: ImageDataset,
    evaluation: SegmentationDataset | None = None,
    merge: Merge | None = None,
    labels: SegmentationDataset | None = None,
) -> Alignment:
    """Bring target, evaluation and labels into a model's label space, where no source says the classes.

    Raises:
        SegRefineryError: the evaluation or the labels have no masks, or no class of the model's, or ``merge`` renames
            what nobody has.
    """
    _refuse_what_does_not_fit(None, target, evaluation, labels)
    check_merge(merge, space, *(one.space for one in (target, evaluation, labels) if one is not None and one.space))
    view = None if evaluation is None else evaluation_view(evaluation, space, merge)[0]
    sentence = f"{space.num_classes} classes, the model's: {', '.join(space.classes)}"
    ignored = {}
    if evaluation is not None and evaluation.space is not None:
        ignored["evaluation"] = _lost(evaluation.space, space, merge)
    if labels is not None and labels.space is not None:
        ignored["labels"] = _lost_of_labels(labels.space, space, merge)
    return _together(sentence, None, target, view, labels, space, merge, ignored)


def _ignored(classes_by_side: Mapping[str, Sequence[str]]) -> str:
    """What to say of the classes of each side that a run has not."""
    sides = (f"; ignored from the {side}: {', '.join(classes)}" for side, classes in classes_by_side.items() if classes)
    return "".join(sides)


def evaluation_view(
    dataset: SegmentationDataset,
    space: LabelSpace,
    merge: Merge | None = None,
    only: LabelSpace | str | Sequence[str] | None = None,
) -> tuple[Remapped, tuple[str, ...]]:
    """A labelled data set as a model is scored on it -> its view in the model's space, and the classes of the model
    that no label of the view can be: the data set lacks them, or ``only`` leaves them out.

    Args:
        space: the model's. merge: as in the model's training; names of classes that the data set lacks do no harm.
        only: the classes whose pixels count (others become 255): a space, the name of one, or class names as a list or
            as one text with commas.

    Raises:
        SegRefineryError: the data set has no labels, the model has no class of a name in ``only``, or no class is left.
    """
    if dataset.space is None or not dataset.has_labels:
        raise SegRefineryError(f"{dataset.reference}: has no labels; scores need a mask for every image.")
    wanted = set(range(space.num_classes)) if only is None else _named(only, space)
    # The id in the model's space of each class of the data set, None where it has none.
    landing = [None if name is None else match(name, space.classes) for name in renamed(dataset.space.classes, merge)]
    reached = wanted & set(landing)
    if not reached:
        counted = ", ".join(space.classes[index] for index in sorted(wanted))
        asked = "the model has" if only is None else "to be scored are"
        raise SegRefineryError(
            f"{dataset.reference}: none of its classes can be scored. It has: {', '.join(dataset.space.classes)}; "
            f"{asked}: {counted}. Name other data{'' if only is None else ' or other classes'}, or say with merge in "
            "the data's dataset.yaml what the model calls its classes."
        )
    # The last entry of a name wins over the model's own merge.
    dropped = {name: None for name, index in zip(dataset.space.classes, landing) if index not in reached}
    view = _scored(Remapped(dataset, space, {**(merge or {}), **dropped}), space)
    return view, tuple(name for index, name in enumerate(space.classes) if index not in reached)


def _scored(view: Remapped, space: LabelSpace) -> Remapped:
    """The view, if each of the data sets that it was joined of has a class that is scored."""
    for part in view.parts:
        if not part.classes:
            raise SegRefineryError(
                f"{part.reference}: none of its classes can be scored; leave it out, or say with merge in its "
                f"dataset.yaml which of them are {', '.join(space.classes)}"
            )
    return view


def classes_beside(dataset: SegmentationDataset, space: LabelSpace, merge: Merge | None = None) -> list[str]:
    """The classes of a data set that ``space`` lacks, so that their pixels are ignored, though no ``merge`` says so."""
    classes = dataset.space.classes if dataset.space else ()
    names = zip(classes, renamed(classes, merge), strict=True)
    return [name for name, new in names if new is not None and match(new, space.classes) is None]


def _named(only: LabelSpace | str | Sequence[str], space: LabelSpace) -> set[int]:
    """Ids in ``space`` of the classes that ``only`` names."""
    if isinstance(only, str):
        names = SPACES[only].classes if only in SPACES else [name.strip() for name in only.split(",")]
    else:
        names = only.classes if isinstance(only, LabelSpace) else only
    places = {name: match(name, space.classes) for name in names}
    unknown = [name or "''" for name, index in places.items() if index is None]
    if unknown or not places:
        raise SegRefineryError(
            f"the classes to be scored: the model has no class {', '.join(unknown)}. Choose from: "
            f"{', '.join(space.classes)}; or name a label space that has no others: {', '.join(SPACES)}."
        )
    return {index for index in places.values() if index is not None}


def _common(source: LabelSpace, other: LabelSpace, side: str, merge: Merge | None) -> LabelSpace:
    try:
        return common_space(source, other, merge)
    except SegRefineryError as error:
        # Label spaces know nothing of the sides of a run.
        raise SegRefineryError(str(error).replace("and the target have", f"and the {side} have", 1)) from error


def _forced(space: LabelSpace, source: LabelSpace, merge: Merge | None, labels: LabelSpace | None) -> LabelSpace:
    taught = [*renamed(source.classes, merge), *(renamed(labels.classes, merge) if labels else ())]
    reached = {match(name, space.classes) for name in taught if name is not None}
    absent = [name for index, name in enumerate(space.classes) if index not in reached]
    if absent:
        raise SegRefineryError(
            f"the source has no class {', '.join(absent)}, so nothing can be learned about it. "
            f"{source.name} has: {', '.join(source.classes)}. Leave it out, or say with merge what it is called."
        )
    return space


def _lost(space: LabelSpace, chosen: LabelSpace, merge: Merge | None) -> tuple[str, ...]:
    new_names = renamed(space.classes, merge)
    return tuple(old for old, new in zip(space.classes, new_names) if new is None or match(new, chosen.classes) is None)
