"""The data sets that a recipe names, opened before networks are imported, so that a wrong name is said at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import SegmentationDataset, open_dataset
from segrefinery.data.translated import TranslatedFolder
from segrefinery.engine.folders import model_folders
from segrefinery.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Named:
    """Data sets as they lie on disk, each with its own classes; None where the recipe names none.

    Attributes:
        oracle: None too where no stage trains on target labels.
        translated: the source's images in the target's style, by the folder that a stage's translation names.
    """

    source: SegmentationDataset | None
    target: SegmentationDataset
    evaluation: SegmentationDataset | None = None
    labels: SegmentationDataset | None = None
    oracle: SegmentationDataset | None = None
    translated: dict[str, TranslatedFolder] = field(default_factory=dict)


def open_named(recipe: Recipe) -> Named:
    """The data sets of a recipe; of their files only the names are looked at.

    Raises:
        SegRefineryError: a data set does not exist, one that a stage needs is not named, or one that is named teaches
            nobody.
    """
    if recipe.target is None:
        raise SegRefineryError("target: name a data set as NAME:PATH[@SPLIT]")
    refuse_nothing_to_adapt(recipe)
    source = open_dataset(recipe.source) if recipe.source else None
    target = open_dataset(recipe.target)
    evaluation = open_dataset(recipe.evaluation) if recipe.evaluation else None
    needs_oracle = any(stage.reads_target_labels for stage in recipe.stages.values())
    if needs_oracle and recipe.oracle is None:
        raise SegRefineryError("oracle: this recipe trains on target labels; name them with --oracle NAME:PATH[@SPLIT]")
    if recipe.translated is not None and source is not None:
        source = TranslatedFolder(source, recipe.translated)
    translated = {}
    for name, stage in recipe.stages.items():
        if (folder := stage.translated_folder) is not None and source is not None:
            translated[folder] = TranslatedFolder(source, folder, f"stages.{name}.translation.folder")
    labels = open_labels(recipe)
    oracle = open_dataset(str(recipe.oracle)) if needs_oracle else None
    return Named(source, target, evaluation, labels, oracle, translated)


def refuse_nothing_to_adapt(recipe: Recipe) -> None:
    """Refuse a run that has neither source images to train a model on nor a model.

    Raises:
        SegRefineryError: says which options name them.
    """
    if recipe.source is None and recipe.model.start is None:
        raise SegRefineryError(
            "source: name labelled images as NAME:PATH[@SPLIT] with --source, or a trained model to adapt with --from"
        )


def assigned(start: str | Path | nn.Module | None) -> list[str]:
    """What a model to start from sets of a recipe."""
    if start is None:
        return []
    if not isinstance(start, str | Path):
        from segrefinery.models.trained import start_of

        start = start_of(start).origin
    return [f"model.from={json.dumps(str(start))}"]


def open_labels(recipe: Recipe) -> SegmentationDataset | None:
    """The labelled target images that a recipe names to teach.

    Raises:
        SegRefineryError: no stage would learn from them, or images are to be held out and there are none.
    """
    if recipe.labels is None:
        if recipe.training.holdout:
            raise SegRefineryError("training.holdout: there are no labels to hold out; name them with --labels")
        if recipe.training.cross_fit:
            raise SegRefineryError("training.cross_fit: there are no labels to score by; name them with --labels")
        return None
    if not any(stage.labelled.weight for stage in recipe.stages.values()):
        names = " or ".join(f"stages.{name}.labelled.weight" for name in recipe.stages)
        raise SegRefineryError(f"labels: no stage of this recipe learns from {recipe.labels}; set {names} above 0")
    return open_dataset(recipe.labels)


def refuse_missing(runs: Iterable[Path], images: str | None = None) -> None:
    """Refuse models or images that are not there.

    Raises:
        SegRefineryError: names the first.
    """
    for run in runs:
        model_folders(run)
    if images is not None:
        open_dataset(images)
