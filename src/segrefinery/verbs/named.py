"""The data sets that a recipe names, opened before networks are imported, so that a wrong name is said at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import ImageDataset, SegmentationDataset, files_of, open_dataset, parts_of
from segrefinery.data.settings import References, joined_reference
from segrefinery.data.translated import TranslatedFolder
from segrefinery.engine.folders import model_folders
from segrefinery.recipe import Recipe, also_set

if TYPE_CHECKING:
    from torch import nn


NO_TARGET = "target: name the images to adapt to, a folder or NAME:PATH[@SPLIT], with --target or in the recipe"


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
        raise SegRefineryError(NO_TARGET)
    refuse_nothing_to_adapt(recipe)
    source = open_dataset(recipe.source) if recipe.source else None
    target = open_dataset(recipe.target)
    evaluation = open_scored("evaluation", recipe.evaluation) if recipe.evaluation else None
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


def with_start(overrides: Sequence[str], start: str | Path | nn.Module | None) -> list[str]:
    """Overrides, and what a model to start from sets of a recipe.

    Raises:
        SegRefineryError: an override names a model to start from too.
    """
    if start is not None and not isinstance(start, str | Path):
        from segrefinery.models.trained import start_of

        start = start_of(start).origin
    return also_set(overrides, "model.from", None if start is None else str(start), "--from")


def named_data(role: str, data: References | None) -> str | None:
    """One text that names a role's data sets.

    Raises:
        SegRefineryError: a name is empty; says the role.
    """
    try:
        return joined_reference(data)
    except SegRefineryError as error:
        raise SegRefineryError(f"{role}: {error}") from error


def named_images(role: str, data: References) -> str:
    """As ``named_data``, of a role that cannot do without.

    Raises:
        SegRefineryError: there is no name, or it is empty; says the role.
    """
    if (reference := named_data(role, data)) is None:
        raise SegRefineryError(f"{role}: name a data set as NAME:PATH[@SPLIT], or a folder; of several write a list")
    return reference


def open_scored(role: str, reference: str) -> SegmentationDataset:
    """Labelled images that score.

    Raises:
        SegRefineryError: they cannot be opened, or have shares of the draws, where none is drawn.
    """
    dataset = open_dataset(reference)
    if any(part.share is not None for part in parts_of(dataset)):
        raise SegRefineryError(
            f"{role} {reference}: shares say how often images are drawn to teach, and each of these scores once; leave "
            "them out, and read the scores on each set beside those on all"
        )
    return dataset


def open_recorded(run: str | Path, role: str, reference: str, remedy: str) -> SegmentationDataset:
    """A data set that a run was made with, from what it recorded.

    Args:
        role: what it was to the run. remedy: how another one is named.

    Raises:
        SegRefineryError: it cannot be opened from the folder where we are.
    """
    try:
        return open_dataset(reference)
    except SegRefineryError as error:
        relative = " (a relative path starts where the run was made)"
        raise SegRefineryError(
            f"{run}: its {role} cannot be opened{relative}: {str(error).rstrip('.')}. {remedy}"
        ) from error


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


def refuse_missing(runs: Iterable[Path], images: References | None = None) -> None:
    """Refuse models or images that are not there.

    Raises:
        SegRefineryError: names the first.
    """
    for run in runs:
        model_folders(run)
    if (reference := named_data("images", images)) is not None:
        open_dataset(reference)


def refuse_inside(output: str | Path, *datasets: ImageDataset | None) -> None:
    """Refuse results among the images that they are made of: the next reading would take them for images.

    Raises:
        SegRefineryError: names both folders.
    """
    for dataset in datasets:
        for part in () if dataset is None else parts_within(dataset):
            folder = searched_folder(part)
            if folder is not None and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):
                raise SegRefineryError(
                    f"{output}: lies in {folder}, whose images are read; name a folder outside with -o"
                )


def parts_within(dataset: ImageDataset) -> Iterator[ImageDataset]:
    """The data sets that one was joined of; itself if it is one."""
    sets = getattr(dataset, "sets", ())
    if not sets:
        yield dataset
    for part in sets:
        yield from parts_within(part)


def searched_folder(dataset: ImageDataset) -> Path | None:
    """The folder below which all images belong to a data set: a directory that was named, or where a ``dataset.yaml``
    looks for them."""
    if Path(dataset.reference).is_dir():
        return Path(dataset.reference)
    if not dataset.reference.startswith("folder:"):
        return None
    parents = {file.parent for index in range(len(dataset)) for file in files_of(dataset, index)[:1]}
    return Path(os.path.commonpath(parents)) if parents else None
