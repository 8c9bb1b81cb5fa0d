"""A run of a recipe in its folder, from the data sets it names to its report."""

from __future__ import annotations

import warnings
from pathlib import Path

from segrefinery.engine.cross_fit import cross_fit
from segrefinery.engine.environment import deterministic
from segrefinery.engine.evaluator import Evaluator
from segrefinery.engine.events import Listeners, RunEvents
from segrefinery.engine.heartbeat import together
from segrefinery.engine.held_out import HeldOut
from segrefinery.engine.model import ModelConfig, ModelKeeper, Origin
from segrefinery.engine.processes import leave_others, make_fabric
from segrefinery.engine.record import keep_record
from segrefinery.engine.run import Run
from segrefinery.engine.scorer import Following, Led, Scorer
from segrefinery.engine.start import make_ready
from segrefinery.engine.tracker import Tracker
from segrefinery.engine.witness import Witness
from segrefinery.models import ModelSettings
from segrefinery.models.trained import StartModel
from segrefinery.recipe import Recipe, dump_recipe
from segrefinery.reporting import write_report
from segrefinery.verbs.bands import in_bands
from segrefinery.verbs.named import Named
from segrefinery.verbs.sets import in_one_space
from segrefinery.verbs.zoom import inert_window, odd_training


def carry_out(
    folder: Path, recipe: Recipe, named: Named, model: StartModel | None, reuse: Path | None, told: RunEvents
) -> None:
    """The run of a recipe in its folder, from a trained model or from a new network."""
    sets = in_one_space(recipe, named, told, model)
    taught = any(part is not None for part in (sets.source, sets.labels, sets.oracle))
    ready = None if model is None else make_ready(model, sets.space.classes, taught, told.said)
    recorded, recipe = recipe, in_bands(recipe, sets.source or sets.target, model, told.said)
    network = recipe.model.network if ready is None else ready.settings
    fabric = make_fabric(recipe.training.precision)
    main = fabric.global_rank == 0
    if main:
        fingerprint = ready and ready.fingerprint
        keep_record(folder, dump_recipe(recorded), sets, fingerprint, str(fabric.device), fabric.world_size, told)
    tracker = Tracker(folder, active=main, say=told.said)
    scorer = Scorer(fabric, sets, recipe.target_data, sets.space.num_classes, recipe.window)
    listeners = Following(scorer)
    if main:
        listeners = Led(listeners_of(folder, recipe, network, scorer, tracker, told), scorer)
    run = Run(
        folder=folder, stages=dict(recipe.stages), model=network, data=recipe.data, target_data=recipe.target_data,
        training=recipe.training, seed=recipe.seed, sets=sets, fabric=fabric, tracker=tracker, events=listeners,
        reuse=reuse, start=ready,
    )  # fmt: skip
    with deterministic(recipe.training.deterministic), together(fabric):
        run.execute()
        if recipe.training.cross_fit:
            cross_fit(run, recipe.training.cross_fit, recipe.window, told)
    leave_others()
    tracker.close()
    if main:
        told.said(f"report: {write_report(folder)}")


def listeners_of(
    folder: Path, recipe: Recipe, network: ModelSettings, scorer: Scorer, tracker: Tracker, told: RunEvents
) -> RunEvents:
    """Who is told of a run, in this order: the user, and those who look, keep and score."""
    sets, space = scorer.sets, scorer.sets.space
    height, width = sets.target.image(0).shape[-2:]
    remarks = [f"{recipe.target}: {line}" for line in inert_window(recipe.window, recipe.target_data, (height, width))]
    remarks += [f"{recipe.target}: {line}" for line in odd_training(recipe.target_data, (height, width))]
    if sets.source is not None:
        first = sets.source.image(0).shape
        remarks += [f"{recipe.source}: {line}" for line in odd_training(recipe.data, (first[-2], first[-1]))]
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    origin = Origin(
        start=recipe.model.start, source=recipe.source, target=recipe.target, labels=recipe.labels, seed=recipe.seed
    )
    about = ModelConfig(
        model=network, space=space.name, classes=space.classes, colors=space.colors, data=scorer.data,
        window=scorer.window, merge=recipe.merge, recipe=recipe.name, trained_on=origin, image_size=(height, width),
    )  # fmt: skip
    choose = recipe.training.choose
    witness = Witness(folder, scorer, tracker, told, choose)
    parts = [told, witness, ModelKeeper(folder, about, candidates=choose == "score")]
    if sets.evaluation is not None:
        named = str(recipe.evaluation)
        parts.append(Evaluator(folder, scorer, named, space, tracker, told, sets.unscored))
    if sets.held_out is not None:
        parts.append(HeldOut(folder, scorer, told))
    return Listeners(*parts)
