"""Rank models without labels, and say of each whether it is better than source-only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import ImageDataset, UnlabeledView, open_dataset
from segrefinery.data.settings import References
from segrefinery.engine.folders import RECIPE, SOURCE_ONLY, model_folders
from segrefinery.engine.model import Model, load
from segrefinery.evaluation.results import read_results
from segrefinery.evaluation.trust.collect import IMAGES, Observation, look, sample_images
from segrefinery.evaluation.trust.verdict import (
    Verdict,
    ensemble_agreement,
    expected_classes,
    pooled,
    single_scores,
    steadiness,
    trust,
    verdict,
)
from segrefinery.models.weights import CONFIG, TENSORS, read_config
from segrefinery.recipe import load_recipe
from segrefinery.verbs.named import named_data, open_recorded


@dataclass
class Ranked:
    """One model among those compared.

    Attributes:
        name: run folder and, where it is not the run's result, the part of it. folder: of the model.
        scores: label-free scores by name; ``trust`` ranks, ``ensemble`` is the agreement with the mean of all models.
        verdict: against the run's own source-only model; None for source-only itself, or where the run has none.
        same_as: name of the first model with the very same weights, which was looked at for both; None for a first.
    """

    name: str
    folder: Path
    scores: dict[str, float]
    verdict: Verdict | None
    same_as: str | None = None


@checked
def compare(
    runs: Sequence[str | Path],
    target: References | None = None,
    *,
    images: Annotated[int, Field(ge=2)] = IMAGES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Ranked]:
    """Rank the models of runs on target images nobody has labelled, best first.

    Args:
        runs: run folders (each with its result, its source-only model and kept candidates), or model folders.
        target: the images, ``NAME:PATH[@SPLIT]`` or a folder; by default those the runs were adapted to.
        images: how many of them are looked at.

    Raises:
        SegRefineryError: no model, different classes, bands or targets, or fewer than two images.
    """
    if not runs:
        raise SegRefineryError("runs: there is none to compare; name run folders or model folders")
    folders = {name: folder for run in runs for name, folder in model_folders(Path(run)).items()}
    check_classes(folders)
    named = named_data("target", target)
    dataset = UnlabeledView(common_target(runs) if named is None else open_dataset(named))
    if len(dataset) < 2:
        raise SegRefineryError(
            f"{dataset.reference}: holds one image; a comparison draws images anew and needs two or more, better thirty"
        )
    chosen = sample_images(dataset, images)
    firsts = first_of_each(folders)
    different = list(dict.fromkeys(firsts.values()))
    total, observed = len(different) * len(chosen), {}
    for number, name in enumerate(different):
        before, model = number * len(chosen), load(folders[name])
        model.refuse_other_bands(dataset)
        observed[name] = observe(model, dataset, chosen, lambda done, _, before=before: progress(before + done, total))
    result = ranked(folders, {name: observed[first] for name, first in firsts.items()})
    for model in result:
        model.same_as = firsts[model.name] if firsts[model.name] != model.name else None
    return result


def first_of_each(folders: dict[str, Path]) -> dict[str, str]:
    """For every model the name of the first one with the same weights and settings: runs that started from one
    source-only model each keep it."""
    names: dict[str, str] = {}
    first = {}
    for name, folder in folders.items():
        digest = hashlib.blake2b((folder / CONFIG).read_bytes())
        with open(folder / TENSORS, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
        first[name] = names.setdefault(digest.hexdigest(), name)
    return first


def observe(
    model: Model, dataset: UnlabeledView, images: Sequence[int], progress: Callable[[int, int], None]
) -> Observation:
    """Look at a loaded model."""
    return look(
        model.network, dataset, model.data, model.space.num_classes, model.window, images=images, progress=progress
    )


def ranked(folders: dict[str, Path], observed: dict[str, Observation]) -> list[Ranked]:
    """Order observed models by the combined score; all are measured against the same reference, the source-only models
    together, or the mean of all models where there is none."""
    first_name = {id(observation): name for name, observation in reversed(observed.items())}
    different = {name: observed[name] for name in first_name.values()}  # the same weights have one vote
    sources = [observation for name, observation in different.items() if folders[name].name == SOURCE_ONLY]
    reference = pooled(sources or list(different.values()))
    expected = expected_classes(*different.values())
    votes = ensemble_agreement(different)
    result = []
    for name, observation in observed.items():
        scores = single_scores(observation, reference)
        scores["trust"] = float(trust(observation, reference, expected))
        scores["balanced_scale"] = float(steadiness(observation, expected))  # over the same classes as trust
        scores["ensemble"] = votes[first_name[id(observation)]]
        source_only = observed.get(f"{run_name(name)}/{SOURCE_ONLY}")
        against = None
        if source_only is not None and source_only is not observation:
            against = verdict(observation, source_only, source_shares(Path(run_name(name))))
        result.append(Ranked(name, folders[name], scores, against))
    return sorted(result, key=lambda model: -model.scores["trust"])


def source_shares(run: Path) -> Tensor | None:
    """C shares of the labels a run learned from, where it kept them."""
    kept = read_results(run).get("source_shares")
    return None if kept is None else torch.tensor(kept)


def run_name(name: str) -> str:
    """The run a model's name belongs to."""
    path = Path(name)
    return str(path if (path / RECIPE).exists() else path.parent)


def check_classes(folders: dict[str, Path]) -> None:
    """Refuse models that do not know the same classes in the same order."""
    (first, known), *others = [(name, read_config(folder / CONFIG).classes) for name, folder in folders.items()]
    for name, classes in others:
        if classes != known:
            raise SegRefineryError(
                f"{first} and {name} were trained on different classes ({', '.join(known)} / {', '.join(classes)}); "
                "only models of the same classes can be compared"
            )


def common_target(runs: Sequence[str | Path]) -> ImageDataset:
    """The target that all runs were adapted to.

    Raises:
        SegRefineryError: they do not say it, had different ones, or it is not there.
    """
    targets = {}
    for run in map(Path, runs):
        home = next((path for path in (run, run.parent) if (path / RECIPE).exists()), None)
        if home is None:
            raise SegRefineryError(f"{run}: does not say what it was adapted to; name the images with --target")
        targets[str(load_recipe(home / RECIPE).target)] = str(run)
    if len(targets) > 1:
        told = "; ".join(f"{run}: {target}" for target, run in targets.items())
        raise SegRefineryError(f"the runs were adapted to different targets ({told}); name one with --target")
    ((target, run),) = targets.items()
    return open_recorded(run, "target", target, "Name the images with --target")
