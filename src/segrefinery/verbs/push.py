"""Put a run's model on the hub, with a page that says what it is."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.core.files import write_text
from segrefinery.core.settings import choose
from segrefinery.core.yaml import read_yaml
from segrefinery.engine.folders import RECIPE, model_folder
from segrefinery.engine.model import ModelConfig
from segrefinery.engine.start import START
from segrefinery.evaluation.results import read_results
from segrefinery.interchange.card import HOSTS, About, card, named
from segrefinery.models.licence import UNKNOWN, licence_of
from segrefinery.models.weights import CONFIG, TENSORS
from segrefinery.verbs.export import UNADAPTED, config_of, export

PushFormat = Literal["ours", "hf", "smp"]


@dataclass(frozen=True)
class Pushed:
    """What the hub has now.

    Attributes:
        address: where it lies. files: their names there. format: what reads them. licence: of the weights, in words.
        notes: of the check, if there was one.
    """

    address: str
    files: tuple[str, ...]
    format: str
    licence: str
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """All of it, to be read."""
        return [
            *self.notes, f"licence of the weights: {self.licence}",
            f"{self.address}: {', '.join(self.files)} written, for {HOSTS[self.format]}",
        ]  # fmt: skip


@checked
def push(
    run: str | Path,
    repository: str,
    *,
    format: PushFormat | None = None,
    private: bool = False,
    licence: str | None = None,
    check: str | Path | None = None,
) -> Pushed:
    """Put a run's model on the hub, as a new version of the repository if it is there already.

    Args:
        repository: ORG/NAME; you are logged in with ``hf auth login``, or HF_TOKEN is set.
        format: ``ours``, or a folder of transformers (``hf``) or segmentation_models_pytorch (``smp``), checked as
            ``export`` does; by default its library's where the network is of one.
        private: of a new repository.
        licence: of the weights, where it is not what is known of the network.
        check: images for the check; by default those the run was adapted to.

    Raises:
        SegRefineryError: no model, a bad name, a check that fails, or a hub that refuses; nothing is uploaded then.
    """
    refuse_name(repository)
    config = config_of(run)
    kind = format or library_of(config)
    choose(HOSTS, kind, "format")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        notes: tuple[str, ...] = ()
        if kind == "ours":
            copy_of_ours(model_folder(run), folder, config)
            if config.trained_on.stage == START:
                notes = (UNADAPTED,)
        else:
            exported = export(run, folder, kind, check=check)
            notes = tuple(line.replace(str(folder), repository) for line in exported.lines())
        said = licence or known_licence(config)
        write_text(folder / "README.md", card(About(repository, kind, config, said, *of_run(run))))
        address = uploaded(folder, repository, private)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return Pushed(address, files, kind, said, notes)


def refuse_name(repository: str) -> None:
    """Raises:
    SegRefineryError: the hub takes no repository of this name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SegRefineryError(f"{repository}: write the repository as ORG/NAME")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise SegRefineryError(f"{repository}: the hub takes no such name ({first_line(error)})") from error


def library_of(config: ModelConfig) -> PushFormat:
    """Who reads the model: the library that its network is of, or we. What refiners do at prediction only we do."""
    name, options = config.model.name, config.model.options
    if config.refine:
        return "ours"
    if name.startswith("smp:"):
        return "smp"
    ours = (
        re.fullmatch(r"segformer_b\d", name) and options.get("norm", "batch") == "batch" and options.get("relu", True)
    )
    return "hf" if name.startswith("transformers:") or ours else "ours"


def copy_of_ours(model: Path, folder: Path, config: ModelConfig) -> None:
    """A model folder of ours without the paths of this machine."""
    folder.mkdir()
    shutil.copyfile(model / TENSORS, folder / TENSORS)
    origin = config.trained_on
    changes = {role: named(getattr(origin, role)) or None for role in ("start", "source", "target", "labels")}
    weights = config.model.weights
    network = config.model.model_copy(update={"weights": named(weights) if weights else weights})
    config = config.model_copy(update={"trained_on": origin.model_copy(update=changes), "model": network})
    write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")


def known_licence(config: ModelConfig) -> str:
    """Of the weights that training began with."""
    if config.trained_on.start is None:
        return licence_of(config.model)
    licence = licence_of(config.model.model_copy(update={"weights": None}))
    origin = f"that of {named(config.trained_on.start)}, which it started from"
    return origin if licence in (UNKNOWN, "Apache-2.0", "BSD-3-Clause") else f"{licence}; and {origin}"


def of_run(run: str | Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The recipe and the results of a run; of a model folder by itself nothing."""
    recipe = Path(run) / RECIPE
    return (read_yaml(recipe), read_results(Path(run))) if recipe.exists() else ({}, {})


def uploaded(folder: Path, repository: str, private: bool) -> str:
    """Make the repository if it is not there, and give it the folder's files in one commit -> its address."""
    import huggingface_hub

    client = huggingface_hub.HfApi()
    try:
        address = client.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        client.upload_folder(
            repo_id=repository, repo_type="model", folder_path=str(folder), commit_message="A model of SegRefinery"
        )
    except Exception as error:  # its client raises what its own parts raise: OSError, ValueError, its HTTP library's
        raise SegRefineryError(
            f"{repository}: the hub did not take it ({first_line(error)}); see that it can be reached, "
            "and log in with `hf auth login` as who may write there"
        ) from error
    return str(address)
