"""Where the parts of a run lie. Nothing here needs torch: a wrong path is said at once."""

from __future__ import annotations

from pathlib import Path

from segrefinery.core.errors import SegRefineryError
from segrefinery.models.settings import CONFIG

RECIPE = "recipe.yaml"
SOURCE_ONLY = "source_model"


def model_folder(path: str | Path) -> Path:
    """The folder of a run's model so far, or the model folder itself.

    Raises:
        SegRefineryError: no model there.
    """
    folder = Path(path)
    for part in (folder, folder / "model", folder / SOURCE_ONLY):
        if (part / CONFIG).exists():
            return part
    raise SegRefineryError(f"{folder}: holds no trained model; name a run folder or a model folder")


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
