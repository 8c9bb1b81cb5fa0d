"""The data sets of a recipe, checked, and in one label space."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align, align_to_model
from segrefinery.data.check import overlaps, refuse_faults
from segrefinery.data.datasets import ImageDataset, SegmentationDataset, UnlabeledView, parts_of
from segrefinery.data.labelled import hold_out, parts_in_turn, refuse_scored, shared_images
from segrefinery.engine.events import RunEvents
from segrefinery.engine.feed import RunData
from segrefinery.engine.processes import rank
from segrefinery.labels import LabelSpace
from segrefinery.models.trained import StartModel
from segrefinery.recipe import Recipe
from segrefinery.verbs.named import Named, open_named


def open_sets(recipe: Recipe, events: RunEvents | None = None, model: StartModel | None = None) -> RunData:
    """The recipe's data sets in one label space; see ``open_named`` and ``in_one_space``."""
    return in_one_space(recipe, open_named(recipe), events or RunEvents(), model)


def in_one_space(recipe: Recipe, named: Named, events: RunEvents, model: StartModel | None = None) -> RunData:
    """The data sets that a recipe names in one label space, every file of theirs read once; says which classes are
    used.

    Args:
        model: the trained model to start from, whose classes they are where there is no source.

    Raises:
        SegRefineryError: a file is unreadable or in another's way, or the data sets have no class in common.
    """
    source, target, evaluation, labels = named.source, named.target, named.evaluation, named.labels
    for problem in overlaps(source, target, evaluation):
        if problem.severity == "error":
            raise SegRefineryError(str(problem))
        events.said(f"warning: {problem}")
    if recipe.oracle is not None and named.oracle is None:
        events.said(
            f"warning: --oracle {recipe.oracle} is not used, for no stage of this recipe trains on target labels; the "
            "recipe oracle does"
        )
    translated = {folder: UnlabeledView(images) for folder, images in named.translated.items()}
    if source is not None:
        common = align(source, target, evaluation, recipe.classes, recipe.merge, labels)
    else:
        assert model is not None, "who adapts without a source adapts a model"
        space = space_of(model, recipe.classes)
        common = align_to_model(space, target, evaluation, recipe.merge, labels)
    events.said(common.sentence)
    for role, dataset in (("source", source), ("target", target), ("labels", labels), ("evaluation", evaluation)):
        say_parts(role, dataset, events)
    oracle = None
    if named.oracle is not None:
        oracle = align(named.oracle, target, space=common.space, merge=recipe.merge).source
    if rank() == 0:  # one process of several reads for all

        def told(role: str, done: int, total: int) -> None:
            events.progressed(f"read {role}", done, total, {})

        refuse_faults(common.source, common.target, common.evaluation, told, common.labels)
        if labels is not None:
            refuse_or_say_shared(labels, target, evaluation, events)
    taught, held_out = None, None
    if common.labels is not None:
        taught, held_out = hold_out(common.labels, recipe.training.holdout, recipe.seed)
        if recipe.training.cross_fit:
            parts_in_turn(taught, recipe.training.cross_fit, recipe.seed)  # too few are an error before training
        events.said(f"labels: {len(taught)} images teach" + (f", {len(held_out)} are held out" if held_out else ""))
    return RunData(
        common.source, common.target, common.space, common.evaluation, common.unscored, oracle, translated, taught,
        held_out, common.untold,
    )  # fmt: skip


def refuse_or_say_shared(
    labels: SegmentationDataset, target: ImageDataset, evaluation: ImageDataset | None, events: RunEvents
) -> None:
    """Refuse labels of images that are scored on; say which are among the target's too, which does no harm."""

    def told(role: str) -> Callable[[int, int], None]:
        return lambda done, total: events.progressed(f"compare {role}", done, total, {})

    if evaluation is not None:
        refuse_scored(UnlabeledView(labels), UnlabeledView(evaluation), told("evaluation"))
    if shared := shared_images(UnlabeledView(labels), UnlabeledView(target), told("target")):
        events.said(
            f"note: {len(shared)} of the {len(labels)} labelled images are also among the target's, where they are "
            "seen without their labels; that does no harm"
        )


def say_parts(role: str, dataset: ImageDataset | None, events: RunEvents) -> None:
    """Say what a data set was joined of, and how often each part is drawn to teach."""
    parts = () if dataset is None else parts_of(dataset)
    if not parts:
        return
    if role == "evaluation":
        events.said(f"{role}: {', '.join(f'{one.reference} ({one.images} images)' for one in parts)}")
        return
    total = sum(part.share if part.share is not None else part.images for part in parts)
    said = (f"{one.reference} ({one.images} images, {100 * (one.share or one.images) / total:.0f} %)" for one in parts)
    events.said(f"{role}: drawn from {', '.join(said)}")


def space_of(model: StartModel, classes: Sequence[str] | None) -> LabelSpace:
    """The classes of a trained model, or those of them that a recipe names.

    Raises:
        SegRefineryError: the model does not say its classes.
    """
    named = model.named_classes
    colors = dict(zip(named, model.colors, strict=True)) if model.colors else None
    return LabelSpace.of("custom" if classes else "model", tuple(classes or named), colors)
