"""Where the parts of a run lie. Nothing here needs torch: a wrong path is said at once."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json
from segrefinery.models.settings import CONFIG

RECIPE = "recipe.yaml"
SOURCE_ONLY = "source_model"


def model_folder(path: str | Path) -> Path:
    """The folder of a run's model so far, or the model folder itself.

    Raises:
        SegRefineryError: no model there, or no longer the one that the run has scored.
    """
    folder = Path(path)
    for part in (folder, folder / "model"):
        if (part / CONFIG).exists():
            return part
    before = folder / SOURCE_ONLY
    if not (before / CONFIG).exists():
        raise SegRefineryError(f"{folder}: holds no trained model; name a run folder or a model folder")
    if _has_adapted(folder):
        raise SegRefineryError(
            f"{folder / 'model' / CONFIG}: is gone, and with it the adapted model of this run; continue it with "
            f"--resume, which writes that again, or name {before}, the model from before"
        )
    return before


@contextmanager
def remedied_by_its_run(folder: Path) -> Iterator[None]:
    """Where reading a model folder of a run fails, also say how the run writes it anew from what it kept of its
    stages."""
    try:
        yield
    except SegRefineryError as error:
        run = folder.parent
        if not (run / RECIPE).exists():
            raise
        reason, recipe, output = str(error).rstrip("."), *(shlex.quote(str(path)) for path in (run / RECIPE, run))
        raise SegRefineryError(
            f"{reason}; or write it anew: segrefinery adapt --recipe {recipe} -o {output} --resume"
        ) from error


def _has_adapted(run: Path) -> bool:
    """Whether a run's results tell of a model beyond source-only."""
    with suppress(SegRefineryError, OSError):  # who needs them says what is wrong with them
        results = read_json(run / "results.json")
        return isinstance(results, dict) and ("adapted" in results or "verdict" in results)
    return False


def run_recipe(path: str | Path) -> Path:
    """The recipe of a run folder.

    Raises:
        SegRefineryError: no run there.
    """
    recipe = Path(path) / RECIPE
    if not recipe.exists():
        raise SegRefineryError(f"{path}: holds no run ({RECIPE} is missing); name the folder given to -o")
    return recipe


def model_folders(run: Path) -> dict[str, Path]:
    """The models of a run by name: its result under the run's own name, source-only and candidates below it.

    Raises:
        SegRefineryError: no model there.
    """
    if (run / CONFIG).exists():
        return {str(run): run}
    parts = [run / "model", run / SOURCE_ONLY, *sorted((run / "candidates").glob("*"))]
    folders = {
        str(run) if part.name == "model" else f"{run}/{part.name}": part for part in parts if (part / CONFIG).exists()
    }
    if not folders:
        raise SegRefineryError(f"{run}: holds no trained model; name a run folder or a model folder")
    return folders
