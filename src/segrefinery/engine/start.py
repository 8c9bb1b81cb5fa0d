"""A run that starts from a trained model: what is made ready of it, and what is left of the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import BUDGET
from segrefinery.models import ModelSettings, Segmenter
from segrefinery.models.states import refuse_not_finite
from segrefinery.models.trained import StartModel
from segrefinery.stages.settings import StageSettings

START = "start"
"""The name under which the model is evaluated and looked at, as if a stage had left it."""


class BroughtSettings(StageSettings):
    """Of the model as it was brought: nothing is trained."""

    steps: Annotated[int, BUDGET] = 0

    @property
    def takes_target(self) -> bool:
        return False


@dataclass
class Start:
    """A trained model, ready for a run.

    Attributes:
        settings: that rebuild the network. network: with its weights, for the run's classes.
        fingerprint: of the model as it was found.
    """

    settings: ModelSettings
    network: Segmenter
    fingerprint: str


def make_ready(model: StartModel, classes: Sequence[str], labels: bool, say: Callable[[str], object]) -> Start:
    """The model for a run's classes; says what it does not know of them and what it knows beyond them.

    Args:
        labels: whether there are labels to learn a new class from.

    Raises:
        SegRefineryError: a new class without labels, or weights that are no numbers; and see ``StartModel.build``.
    """
    network, new = model.build(classes)
    refuse_not_finite(model.origin, network)
    if new and not labels:
        raise SegRefineryError(
            f"{model.origin}: has no class {', '.join(new)}, and there are no labels to learn it from; name labelled "
            "images with --source, or leave it out of classes"
        )
    for note in model.notes:
        say(f"{model.origin}: {note}")
    if model.normalization is None:
        mean, std = network.normalization
        say(
            f"{model.origin}: does not say how its images were normalised; a mean of {mean} and a deviation of {std} "
            "are taken, unless data.pixel_mean and data.pixel_std say otherwise"
        )
    kept = {row for row in model.rows(classes) if row >= 0}
    if dropped := [name for row, name in enumerate(model.named_classes) if row not in kept]:
        say(f"{model.origin}: not in the data, so left out of its classifier: {', '.join(dropped)}")
    if new:
        say(f"{model.origin}: has no {', '.join(new)}: these rows of its classifier are new, and are learned here")
    return Start(model.network, network, model.fingerprint)


def stages_from(
    origin: str, stages: Mapping[str, StageSettings], say: Callable[[str], object]
) -> dict[str, StageSettings]:
    """The stages of a run that starts from a trained model: what trained it on the source alone falls away, or trains
    refiners alone. Says so.

    Raises:
        SegRefineryError: no stage is left, or one has the name of the model's own.
    """
    if START in stages:
        raise SegRefineryError(
            f"stages.{START}: with model.from this is the name of the model; call the stage otherwise"
        )
    left: dict[str, StageSettings] = {}
    for name, settings in stages.items():
        rest = settings.beside_a_model()
        if rest is None:
            say(f"{name}: falls away, for {origin} is trained already")
            continue
        if rest is not settings:
            say(f"{name}: trains its refiners alone ({', '.join(rest.chain)}), for {origin} is trained already")
        if rest.start == "fresh" and rest.model is None:
            say(f"{name}: starts from {origin}, where the recipe starts from a new network")
        left[name] = rest
    if not left:
        raise SegRefineryError(
            f"stages: {', '.join(stages)} would train on the source alone, and {origin} is trained already; choose a "
            "recipe that adapts, for instance --recipe self_training"
        )
    return left


def refuse_without_source(stages: Mapping[str, StageSettings], others: Callable[[], Sequence[str]]) -> None:
    """Refuse stages that cannot do without the source.

    Args:
        others: names of the recipes that can, asked for only if they are to be named.

    Raises:
        SegRefineryError: names the first such stage, why, and those recipes.
    """
    for name, settings in stages.items():
        if (reason := settings.needs_source) is not None:
            raise SegRefineryError(
                f"stages.{name}: {reason}; name labelled images with --source, or take a recipe that does without: "
                f"{', '.join(others())}"
            )
