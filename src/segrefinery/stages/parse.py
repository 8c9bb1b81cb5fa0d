"""From a recipe's ``stages`` to their settings, with every mistake under its full key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import Mistake, as_validation_error, choose, did_you_mean, mistakes_of
from segrefinery.core.words import not_a_file_name
from segrefinery.refine import REFINERS, parse_chain
from segrefinery.stages import STAGES
from segrefinery.stages.settings import StageSettings


def parse_stages(value: Any) -> dict[str, StageSettings]:
    """Stages by name, in order; ``kind`` picks the settings each is read with, and a null is a stage removed."""
    given = {name: stage for name, stage in value.items() if stage is not None} if isinstance(value, Mapping) else {}
    if not given:
        raise ValueError("write a mapping of stage names to settings; a recipe needs one stage at least")
    stages, mistakes = {}, []
    for name, settings in given.items():
        if wrong := not_a_file_name(name):
            mistakes.append(Mistake((str(name),), wrong))
            continue
        if isinstance(settings, StageSettings):
            stages[name] = settings
            continue
        try:
            stages[name] = parse_stage(name, settings, given)
        except ValidationError as error:
            # they are in words already, and lack only the stage's name
            mistakes += [Mistake((name, *item["loc"]), item["msg"]) for item in error.errors()]
    if mistakes:
        raise as_validation_error(mistakes)
    stages = in_order(stages)
    refuse_shared_folders(stages)
    check_lessons(stages)
    return stages


def parse_stage(name: str, settings: Any, stages: Mapping[str, Any]) -> StageSettings:
    """One stage; its mistakes are raised in words, those of its refiners under the refiner's name."""
    if not isinstance(settings, Mapping):
        raise as_validation_error([Mistake((), f"a stage is a mapping of settings (got {settings!r})")])
    if "kind" not in settings:
        known = [other for other, stage in stages.items() if not isinstance(stage, Mapping) or "kind" in stage]
        hint = did_you_mean(str(name), known)
        raise as_validation_error([Mistake((), f"a new stage needs a kind: {', '.join(STAGES)}.{hint}")])
    try:
        kind = choose(STAGES, str(settings["kind"]), "kind of stage")
    except SegRefineryError as error:
        raise as_validation_error([Mistake(("kind",), str(error))]) from error
    chain = settings.get("refine")
    if isinstance(chain, Mapping) and "replace" in chain:  # a chain with nothing before it to replace
        if not isinstance(chain["replace"], bool):
            wrong = f"write true, for a chain in place of the one before, or false (got {chain['replace']!r})"
            raise as_validation_error([Mistake(("refine", "replace"), wrong)])
        settings = {**settings, "refine": {key: value for key, value in chain.items() if key != "replace"}}
    mistakes = _mistakes_of_refiners(settings.get("refine")) if "refine" in kind.model_fields else []
    try:
        stage = kind.model_validate({key: value for key, value in settings.items() if not mistakes or key != "refine"})
    except ValidationError as error:
        mistakes += mistakes_of(error, kind)
    else:
        if not mistakes:
            return stage
    raise as_validation_error(mistakes)


def _mistakes_of_refiners(chain: Any) -> list[Mistake]:
    """Of each refiner by itself, for the chain as a whole does not say which one is wrong. What is no refiner at all is
    left to the chain."""
    mistakes = []
    for item in chain if isinstance(chain, list) else [chain]:
        for name, settings in item.items() if isinstance(item, Mapping) else [(item, {})]:
            if not isinstance(name, str):
                continue
            try:
                parse_chain({name: settings})
            except ValidationError as error:
                of_refiner = mistakes_of(error, REFINERS[name])
                mistakes += [Mistake(("refine", name, *location), text) for location, text in of_refiner]
            except SegRefineryError as error:
                mistakes.append(Mistake(("refine",), str(error)))
    return mistakes


def in_order(stages: Mapping[str, StageSettings]) -> dict[str, StageSettings]:
    """The stages with each that says ``before`` moved in front of the one it names.

    Raises:
        ValueError: there is no such stage.
    """
    names = list(stages)
    for name, stage in stages.items():
        if stage.before is None:
            continue
        if stage.before not in stages or stage.before == name:
            others = ", ".join(other for other in stages if other != name)
            raise ValueError(f"stages.{name}.before: no other stage is called {stage.before!r}; there are {others}")
        names.remove(name)
        names.insert(names.index(stage.before), name)
    return {name: stages[name] for name in names}


def refuse_shared_folders(stages: Mapping[str, StageSettings]) -> None:
    """Refuse stages whose folders would be one: names that differ in case alone, or are those of another's rounds.

    Raises:
        ValueError: names both.
    """
    owners: dict[str, str] = {}
    for name, stage in stages.items():
        rounds = [name] if stage.repeats == 1 else [f"{name}-{number + 1}" for number in range(stage.repeats)]
        for folder in rounds:
            if other := owners.get(folder.casefold()):
                raise ValueError(f"stages.{name}: its folder {folder!r} would be that of stages.{other}; rename one")
            owners[folder.casefold()] = name


def check_lessons(stages: Mapping[str, StageSettings]) -> None:
    """A refiner that must have been trained (SAM's attention) needs an earlier stage that does it.

    Raises:
        ValueError: names the stage and says what to write.
    """
    taught: set[str] = set()
    for name, stage in stages.items():
        for refiner, settings in stage.chain.items():
            if settings.must_be_taught and refiner not in taught:
                raise ValueError(
                    f"stages.{name}.refine.{refiner} needs a stage before it that trains it. Add one: "
                    f"attention: {{kind: supervised, before: {name}, hands_on: refiners, steps: {stage.steps}, "
                    f"weights: {{main: 0, aux: 0}}, refine: {{{refiner}: {{train: true}}}}}}"
                )
            if settings.teaches_first:
                taught.add(refiner)
