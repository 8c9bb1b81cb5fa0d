"""Adapt a model to unlabelled target images: a run, its folder and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.joined import References, joined_reference
from segrefinery.engine.environment import deterministic
from segrefinery.engine.evaluator import Evaluator
from segrefinery.engine.events import Listeners, RunEvents
from segrefinery.engine.feed import RunData
from segrefinery.engine.heartbeat import together
from segrefinery.engine.held_out import HeldOut
from segrefinery.engine.model import ModelConfig, ModelKeeper, Origin
from segrefinery.engine.processes import make_fabric
from segrefinery.engine.record import LOCK, RECIPE, keep_record, the_only_writer
from segrefinery.engine.run import Run
from segrefinery.engine.start import make_ready
from segrefinery.engine.tracker import Tracker
from segrefinery.engine.witness import Witness
from segrefinery.models import ModelSettings
from segrefinery.models.start import StartModel
from segrefinery.recipe import Recipe, dump_recipe, load_recipe
from segrefinery.reporting import write_report
from segrefinery.verbs.bands import in_bands
from segrefinery.verbs.sets import open_sets
from segrefinery.verbs.start import assigned, started


def adapt(
    recipe: str | Path | Recipe,
    source: References | None,
    target: References,
    output: str | Path,
    *,
    start: str | Path | nn.Module | None = None,
    labels: References | None = None,
    evaluation: References | None = None,
    oracle: str | Path | None = None,
    scale: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    resume: bool = False,
    reuse: str | Path | None = None,
    events: RunEvents | None = None,
) -> Path:
    """Adapt a model to unlabelled target images and write the report -> the run folder.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a recipe.
        source: labelled images, ``NAME:PATH[@SPLIT]``, or None where a trained model is adapted without them.
        target: images to adapt to; labels they have are not read. Several data sets are a list, each with its share
            of the draws if you like: ``2 of NAME:PATH``.
        output: the run folder, which must be new, empty, or the run to ``resume``.
        start: a trained model to adapt (see ``models.start.FORMS``), or a module made ready by ``models.wrap``; it
            takes the place of the network that the recipe trains on the source first.
        labels: labelled images of the target domain that teach beside the source and the pseudo-labels.
        evaluation: labelled images of the target domain, looked at for scores only, none of them among ``labels``.
        oracle: labelled target images, for a recipe with an oracle stage only.
        scale: ``small`` for two processor cores. overrides: ``a.b=c`` assignments to the recipe.
        reuse: folder in which finished stages are shared between runs that agree on all that determines them, this
            code included; or the folder of another run, from which such stages are taken.
        events: told of every step and, in sentences, of what happens.

    Raises:
        SegRefineryError: bad input, named before anything is trained; or training that cannot go on.
    """
    folder, told = Path(output), events or RunEvents()
    if not isinstance(recipe, Recipe):
        named = {"source": source, "target": target, "labels": labels, "evaluation": evaluation, "oracle": oracle}
        fields = {role: joined_reference(data) for role, data in named.items()}
        recipe = load_recipe(recipe, scale, [*overrides, *assigned(start)], seed=seed, **fields)
    recipe, model = started(recipe, start, told)
    check_folder(folder, recipe, resume, told)
    open_folder(folder)
    with the_only_writer(folder):
        carry_out(folder, recipe, model, Path(reuse) if reuse else None, told)
    return folder


def carry_out(folder: Path, recipe: Recipe, model: StartModel | None, reuse: Path | None, told: RunEvents) -> None:
    """The run of a recipe in its folder, from a trained model or from a new network."""
    sets = open_sets(recipe, told, model)
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
    listeners = listeners_of(folder, recipe, network, sets, tracker, told) if main else RunEvents()
    run = Run(
        folder=folder, stages=dict(recipe.stages), model=network, data=recipe.data, target_data=recipe.target_data,
        training=recipe.training, seed=recipe.seed, sets=sets, fabric=fabric, tracker=tracker, events=listeners,
        reuse=reuse, start=ready,
    )  # fmt: skip
    with deterministic(recipe.training.deterministic), together(fabric):
        run.execute()
    tracker.close()


class Reporter(RunEvents):
    """Writes the report once all is done."""

    def __init__(self, folder: Path, told: RunEvents) -> None:
        self.folder, self.told = folder, told

    def concluded(self) -> None:
        self.told.said(f"report: {write_report(self.folder)}")


def listeners_of(
    folder: Path, recipe: Recipe, network: ModelSettings, sets: RunData, tracker: Tracker, told: RunEvents
) -> RunEvents:
    """Who is told of a run, in this order: the user, and those who look, keep, score and report."""
    space, data, window = sets.space, recipe.target_data, recipe.window
    height, width = sets.target.image(0).shape[-2:]
    origin = Origin(
        start=recipe.model.start, source=recipe.source, target=recipe.target, labels=recipe.labels, seed=recipe.seed
    )
    about = ModelConfig(
        model=network, space=space.name, classes=space.classes, colors=space.colors, data=data, window=window,
        merge=recipe.merge, recipe=recipe.name, trained_on=origin, image_size=(height, width),
    )  # fmt: skip
    choose = recipe.training.choose
    witness = Witness(folder, sets.source, sets.target, data, space.num_classes, window, tracker, told, choose)
    parts = [told, witness, ModelKeeper(folder, about, candidates=choose == "score")]
    if sets.evaluation is not None:
        named = str(recipe.evaluation)
        parts.append(Evaluator(folder, sets.evaluation, named, space, data, window, tracker, told, sets.unscored))
    if sets.held_out is not None:
        parts.append(HeldOut(folder, sets.held_out, data, space.num_classes, window, told))
    return Listeners(*parts, Reporter(folder, told))


# -- the folder --------------------------------------------------------------------------------------------------------


def check_folder(folder: Path, recipe: Recipe, resume: bool, told: RunEvents) -> None:
    """Refuse to overwrite a run, and to resume one with another recipe."""
    written = folder / RECIPE
    if folder.exists() and not folder.is_dir():
        raise SegRefineryError(f"{folder}: is a file; name a folder for the run with -o")
    if not written.exists():
        if folder.exists() and any(path.name != LOCK for path in folder.iterdir()) and not resume:
            raise SegRefineryError(f"{folder}: is not empty and holds no run; name a new folder with -o")
        if resume:
            told.said(f"note: {folder} holds no run to continue; a new one starts there")
        return
    if not resume:
        raise SegRefineryError(
            f"{folder}: holds a run already; continue it with --resume, or name a new folder with -o"
        )
    before = load_recipe(written)
    old, new = before.model_dump(mode="json"), recipe.model_dump(mode="json")
    different = [key for key in new if old.get(key) != new[key] and key != "about"]
    if different:
        raise SegRefineryError(
            f"{written}: the run was started with other settings ({', '.join(different)}); resume with the same "
            f"recipe, data and --set, or start a new run with -o; --reuse {folder} then takes over the stages that "
            "have not changed"
        )


def open_folder(folder: Path) -> None:
    """Make the run's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegRefineryError(f"{folder}: cannot be made ({error.strerror}); name another folder with -o") from error
