"""The data sets of a recipe, opened, checked, and in one label space."""

from __future__ import annotations

from collections.abc import Sequence

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align, align_to_model
from segrefinery.data.check import overlaps, refuse_faults
from segrefinery.data.datasets import ImageDataset, SegmentationDataset, UnlabeledView, open_dataset, parts_of
from segrefinery.data.labelled import hold_out, refuse_scored, shared_images
from segrefinery.data.translation import TranslatedFolder
from segrefinery.engine.events import RunEvents
from segrefinery.engine.feed import RunData
from segrefinery.engine.processes import rank
from segrefinery.labels import LabelSpace
from segrefinery.models.start import StartModel
from segrefinery.recipe import Recipe


def open_sets(recipe: Recipe, events: RunEvents | None = None, model: StartModel | None = None) -> RunData:
    """The recipe's data sets in one label space, every file of theirs read once; says which classes are used.

    Args:
        model: the trained model to start from, whose classes they are where there is no source.

    Raises:
        SegRefineryError: a data set is missing, unreadable, in another's way, or has no class in common.
    """
    events = events or RunEvents()
    if recipe.target is None:
        raise SegRefineryError("target: name a data set as NAME:PATH[@SPLIT]")
    source = open_dataset(recipe.source) if recipe.source else None
    target = open_dataset(recipe.target)
    evaluation = open_dataset(recipe.evaluation) if recipe.evaluation else None
    for problem in overlaps(source, target, evaluation):
        if problem.severity == "error":
            raise SegRefineryError(str(problem))
        events.said(f"warning: {problem}")
    needs_oracle = any(stage.reads_target_labels for stage in recipe.stages.values())
    if needs_oracle and recipe.oracle is None:
        raise SegRefineryError("oracle: this recipe trains on target labels; name them with --oracle NAME:PATH[@SPLIT]")
    if recipe.oracle is not None and not needs_oracle:
        events.said(
            f"warning: --oracle {recipe.oracle} is not used, for no stage of this recipe trains on target labels; the "
            "recipe oracle does"
        )
    if recipe.translated is not None and source is not None:
        source = TranslatedFolder(source, recipe.translated)
    translated = {}
    for name, stage in recipe.stages.items():
        if (folder := stage.translated_folder) is not None and source is not None:
            images = TranslatedFolder(source, folder, f"stages.{name}.translation.folder")
            translated[folder] = UnlabeledView(images)
    labels = open_labels(recipe)
    unscored: tuple[str, ...] = ()
    if source is not None:
        common = align(source, target, evaluation, recipe.classes, recipe.merge, labels)
    else:
        assert model is not None, "who adapts without a source adapts a model"
        space = space_of(model, recipe.classes)
        common, unscored = align_to_model(space, target, evaluation, recipe.merge, labels)
    events.said(common.sentence)
    for role, dataset in (("source", source), ("target", target), ("labels", labels), ("evaluation", evaluation)):
        say_parts(role, dataset, events)
    oracle = None
    if needs_oracle:
        oracle = align(open_dataset(str(recipe.oracle)), target, space=common.space, merge=recipe.merge).source
    if rank() == 0:  # one process of several reads for all
        told = lambda role, done, total: events.progressed(f"read {role}", done, total, {})  # noqa: E731
        refuse_faults(common.source, common.target, common.evaluation, told, common.labels)
        if labels is not None:
            refuse_or_say_shared(labels, target, evaluation, events)
    taught, held_out = None, None
    if common.labels is not None:
        taught, held_out = hold_out(common.labels, recipe.training.holdout, recipe.seed)
        events.said(f"labels: {len(taught)} images teach" + (f", {len(held_out)} are held out" if held_out else ""))
    return RunData(
        common.source, common.target, common.space, common.evaluation, unscored, oracle, translated, taught, held_out
    )


def open_labels(recipe: Recipe) -> SegmentationDataset | None:
    """The labelled target images that a recipe names to teach.

    Raises:
        SegRefineryError: no stage would learn from them, or images are to be held out and there are none.
    """
    if recipe.labels is None:
        if recipe.training.holdout:
            raise SegRefineryError("training.holdout: there are no labels to hold out; name them with --labels")
        return None
    if not any(stage.labelled.weight for stage in recipe.stages.values()):
        names = " or ".join(f"stages.{name}.labelled.weight" for name in recipe.stages)
        raise SegRefineryError(f"labels: no stage of this recipe learns from {recipe.labels}; set {names} above 0")
    return open_dataset(recipe.labels)


def refuse_or_say_shared(
    labels: SegmentationDataset, target: ImageDataset, evaluation: ImageDataset | None, events: RunEvents
) -> None:
    """Refuse labels of images that are scored on; say which are among the target's too, which does no harm."""
    told = lambda role: lambda done, total: events.progressed(f"compare {role}", done, total, {})  # noqa: E731
    if evaluation is not None:
        refuse_scored(UnlabeledView(labels), UnlabeledView(evaluation), told("evaluation"))
    if shared := shared_images(UnlabeledView(labels), UnlabeledView(target), told("target")):
        events.said(
            f"note: {len(shared)} of the {len(labels)} labelled images are also among the target's, where they are "
            "seen without their labels; that does no harm"
        )


def say_parts(role: str, dataset: ImageDataset | None, events: RunEvents) -> None:
    """Say what a data set was joined of, and how often each part is drawn."""
    parts = () if dataset is None else parts_of(dataset)
    total = sum(part.share if part.share is not None else part.images for part in parts)
    said = (f"{one.reference} ({one.images} images, {100 * (one.share or one.images) / total:.0f} %)" for one in parts)
    if parts:
        events.said(f"{role}: drawn from {', '.join(said)}")


def space_of(model: StartModel, classes: Sequence[str] | None) -> LabelSpace:
    """The classes of a trained model, or those of them that a recipe names.

    Raises:
        SegRefineryError: the model does not say its classes.
    """
    own = model.named_classes
    colors = dict(zip(own, model.colors, strict=True)) if model.colors else None
    return LabelSpace.of("custom" if classes else "model", tuple(classes or own), colors)
