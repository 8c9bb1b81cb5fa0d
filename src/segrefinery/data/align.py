"""One label space for source, target and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from segrefinery.data.datasets import ImageDataset, Remapped, SegmentationDataset, UnlabeledView
from segrefinery.errors import SegRefineryError
from segrefinery.labels import LabelSpace, Merge, check_merge, common_space, match, merged, parse_space, renamed


class Alignment(NamedTuple):
    """Source, target and evaluation in one label space; ``sentence`` tells the user which classes are used."""

    space: LabelSpace
    source: SegmentationDataset
    target: UnlabeledView
    evaluation: SegmentationDataset | None
    sentence: str
    ignored: dict[str, tuple[str, ...]]
    """Side -> its classes that are not used."""


def align(
    source: SegmentationDataset,
    target: ImageDataset,
    evaluation: SegmentationDataset | None = None,
    space: LabelSpace | str | Sequence[str] | None = None,
    merge: Merge | None = None,
) -> Alignment:
    """Bring the data of a run into one label space.

    The space is ``space`` where given (a space, its name, or class names). Else it is the classes that the source has
    in common with the evaluation, or without one with the target, or the source's own. The target loses its labels.

    Args:
        merge: renames classes on all sides before they are compared: name -> name, or None to ignore the class.

    Raises:
        SegRefineryError: the source or the evaluation has no labels, there is no common class, or ``space`` asks for a
            class that the source lacks.
    """
    for role, dataset in (("source", source), ("evaluation", evaluation)):
        if dataset is not None and (dataset.space is None or not dataset.has_labels):
            raise SegRefineryError(
                f"{role} {dataset.reference}: has no labels; the {role} needs a mask for every image."
            )
    assert source.space is not None
    other = evaluation.space if evaluation is not None else target.space
    spaces = [source.space] if other is None else [source.space, other]
    check_merge(merge, *spaces)
    if space is not None:
        chosen = _forced(parse_space(space), source.space, merge)
    elif other is not None:
        chosen = common_space(source.space, other, merge)
    else:
        chosen = merged(source.space, merge)
    ignored = {"source": _lost(source.space, chosen, merge)}
    if other is not None:
        ignored["target" if evaluation is None else "evaluation"] = _lost(other, chosen, merge)
    sentence = f"{chosen.num_classes} classes: {', '.join(chosen.classes)}"
    for side, classes in ignored.items():
        if classes:
            sentence += f"; ignored from the {side}: {', '.join(classes)}"
    return Alignment(
        chosen,
        Remapped(source, chosen, merge),
        UnlabeledView(target),
        None if evaluation is None else Remapped(evaluation, chosen, merge),
        f"{sentence}.",
        ignored,
    )


def _forced(space: LabelSpace, source: LabelSpace, merge: Merge | None) -> LabelSpace:
    reached = {match(name, space.classes) for name in renamed(source.classes, merge) if name is not None}
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
