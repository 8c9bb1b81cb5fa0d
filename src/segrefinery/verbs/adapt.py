"""Adapt a model to unlabelled target images: a run, its folder and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.settings import References
from segrefinery.engine.events import RunEvents
from segrefinery.engine.folders import RECIPE
from segrefinery.engine.processes import restarted
from segrefinery.engine.record import LOCK, the_only_writer
from segrefinery.recipe import Recipe, load_recipe
from segrefinery.verbs.named import named_data, open_named, refuse_inside, with_start

if TYPE_CHECKING:
    from torch import nn

MOST_NAMED = 5
"""Settings that are named where those of a run have changed."""


@checked
def adapt(
    recipe: str | Path | Recipe,
    source: References | None,
    target: References | None,
    output: str | Path,
    *,
    start: str | Path | nn.Module | None = None,
    labels: References | None = None,
    evaluation: References | None = None,
    oracle: str | Path | None = None,
    scale: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    reuse: str | Path | None = None,
    events: RunEvents | None = None,
) -> Path:
    """Adapt a model to unlabelled target images and write the report -> the run folder.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a recipe; what it says of data and seed holds where
            the arguments here are None.
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
        resume: go on with the run in the folder, as processes do that torchrun starts anew (``--max-restarts``).
        events: told of every step and, in sentences, of what happens.

    Raises:
        SegRefineryError: bad input, named before anything is trained; or training that cannot go on.
    """
    folder, told = Path(output), events or RunEvents()
    if restarted() and not resume:
        told.said("note: torchrun started the processes anew, which goes on with the run")
        resume = True
    named = {"source": source, "target": target, "labels": labels, "evaluation": evaluation, "oracle": oracle}
    fields = {role: named_data(role, data) for role, data in named.items()}
    recipe = load_recipe(recipe, scale, with_start(overrides, start), seed=seed, **fields)
    refuse_folder(folder, resume, told)
    named = open_named(recipe)
    if not resume:
        refuse_inside(folder, named.source, named.target, named.labels, named.evaluation)
    from segrefinery.verbs.carry_out import carry_out  # here, for networks take seconds to import
    from segrefinery.verbs.start import started

    recipe, model = started(recipe, start, told)
    refuse_another_run(folder, recipe)
    make_run_folder(folder)
    with the_only_writer(folder):
        carry_out(folder, recipe, named, model, Path(reuse) if reuse else None, told)
    return folder


# -- the folder --------------------------------------------------------------------------------------------------------


def refuse_folder(folder: Path, resume: bool, told: RunEvents) -> None:
    """Refuse to overwrite a run, or files that no run wrote."""
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


def refuse_another_run(folder: Path, recipe: Recipe) -> None:
    """Refuse to resume a run with another recipe."""
    written = folder / RECIPE
    if not written.exists():
        return
    before = load_recipe(written)
    old, new = before.model_dump(mode="json"), recipe.model_dump(mode="json")
    different = [each for key in new if key != "about" for each in differences(old.get(key), new[key], key)]
    if different:
        more = [f"and {len(different) - MOST_NAMED} more"] if len(different) > MOST_NAMED else []
        raise SegRefineryError(
            f"{written}: the run was started with other settings ({', '.join(different[:MOST_NAMED] + more)}); resume "
            f"with the same recipe, data and --set, or start a new run with -o; --reuse {folder} then takes over the "
            "stages that have not changed"
        )


def differences(old: Any, new: Any, key: str) -> Iterator[str]:
    """In words, what of two plain values of a setting is not the same."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for part in {**old, **new}:
            yield from differences(old.get(part), new.get(part), f"{key}.{part}")
    elif isinstance(old, Mapping) or isinstance(new, Mapping):  # all of a stage or a refiner is too much to say
        yield f"{key} {'is new' if old is None else 'is gone' if new is None else 'is another'}"
    elif old != new:
        yield f"{key} {old}, now {new}"


def make_run_folder(folder: Path) -> None:
    """Make the run's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegRefineryError(f"{folder}: cannot be made ({error.strerror}); name another folder with -o") from error
