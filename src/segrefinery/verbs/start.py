"""The trained model that a run starts from, read from wherever the user has it, and what it changes of the recipe."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.events import RunEvents
from segrefinery.engine.folders import RECIPE, model_folder
from segrefinery.engine.start import refuse_without_source, stages_from
from segrefinery.models.start import read_start
from segrefinery.models.trained import StartModel, start_of
from segrefinery.recipe import Recipe, load_recipe, recipe_names


def started(recipe: Recipe, start: nn.Module | str | Path | None, told: RunEvents) -> tuple[Recipe, StartModel | None]:
    """The model that a recipe starts from (``model.from``), and the recipe without what trained one; says what it
    leaves out.

    Args:
        start: the model itself, where it is a module in Python.

    Raises:
        SegRefineryError: no such model, the wrong number of names for its classes, no source though a stage needs it,
            or nothing left to train.
    """
    origin = recipe.model.start
    if origin is None:
        return recipe, None
    model = start_of(start) if isinstance(start, nn.Module) else _read(origin, recipe)
    if recipe.model.classes is not None:
        model.name_classes(recipe.model.classes)
    told.said(f"starts from {origin} ({model.network.name}, {model.num_classes} classes)")
    recipe = recipe.model_copy(update={"stages": stages_from(origin, recipe.stages, told.said)})
    if recipe.source is None:
        refuse_without_source(recipe.stages, source_free_recipes)
        if recipe.translated is not None:
            raise SegRefineryError("translated: its images take the place of source images; name those with --source")
    return recipe, model


def _read(origin: str, recipe: Recipe) -> StartModel:
    if origin.startswith("wrapped:"):
        raise SegRefineryError(
            f"model.from: {origin} is a Python module; continue its run in Python, with adapt(..., start=module)"
        )
    is_run = (Path(origin) / RECIPE).exists()
    return read_start(model_folder(origin) if is_run else origin, recipe.model.network)


def source_free_recipes() -> list[str]:
    """The shipped recipes that adapt a trained model without its source."""
    without_source = []
    for name in recipe_names():
        rest = [stage.beside_a_model() for stage in load_recipe(name).stages.values()]
        left = [stage for stage in rest if stage is not None]
        if left and all(stage.takes_target and stage.needs_source is None for stage in left):
            without_source.append(name)
    return without_source
