"""The data sets of a recipe, opened, checked, and in one label space."""

from __future__ import annotations

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align
from segrefinery.data.check import overlaps, refuse_faults
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.translation import TranslatedFolder
from segrefinery.engine.events import RunEvents
from segrefinery.engine.feed import RunData
from segrefinery.engine.processes import rank
from segrefinery.recipe import Recipe


def open_sets(recipe: Recipe, events: RunEvents | None = None) -> RunData:
    """The recipe's data sets in one label space, every file of theirs read once; says which classes are used.

    Raises:
        SegRefineryError: a data set is missing, unreadable, in another's way, or has no class in common.
    """
    events = events or RunEvents()
    for field in ("source", "target"):
        if getattr(recipe, field) is None:
            raise SegRefineryError(f"{field}: name a data set as NAME:PATH[@SPLIT]")
    source = open_dataset(str(recipe.source))
    target = open_dataset(str(recipe.target))
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
    if recipe.translated is not None:
        source = TranslatedFolder(source, recipe.translated)
    translated = {}
    for name, stage in recipe.stages.items():
        if (folder := stage.translated_folder) is not None:
            images = TranslatedFolder(source, folder, f"stages.{name}.translation.folder")
            translated[folder] = UnlabeledView(images)
    common = align(source, target, evaluation, space=recipe.classes, merge=recipe.merge)
    events.said(common.sentence)
    oracle = None
    if needs_oracle:
        oracle = align(open_dataset(str(recipe.oracle)), target, space=common.space, merge=recipe.merge).source
    if rank() == 0:  # one process of several reads for all
        told = lambda role, done, total: events.progressed(f"read {role}", done, total, {})  # noqa: E731
        refuse_faults(common.source, common.target, common.evaluation, told)
    return RunData(common.source, common.target, common.space, common.evaluation, oracle, translated)
