"""A model as a folder: ``model.safetensors`` with the tensors and ``config.json`` with all it takes to rebuild it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors.torch import save_file

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import whole_file, write_text
from segrefinery.core.settings import Settings
from segrefinery.models.build import ModelSettings, build_model
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.states import hub_file, load_weights

FORMAT = 1
TENSORS = "model.safetensors"
CONFIG = "config.json"


class ModelConfig(Settings):
    """The content of ``config.json``."""

    format: int = FORMAT
    """Version of this file; a reader refuses any other."""
    model: ModelSettings
    """The network."""
    space: str
    """Name of the label space."""
    classes: tuple[str, ...]
    """Class names, in the order of the logits."""
    colors: tuple[tuple[int, int, int], ...]
    """A colour a class."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """What a predictor needs besides (normalisation, crop, ...)."""


def save_model(
    folder: str | Path,
    model: Segmenter,
    settings: ModelSettings,
    space_name: str,
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model. Each file is written beside its place and then moved there, the tensors first, so that a reader
    never finds half of one.

    Returns:
        The folder.

    Raises:
        ValueError: the number of classes or colours is not the model's.
        SegRefineryError: the disk is full or the folder not writable; what was there before is whole.
    """
    if not len(classes) == len(colors) == model.num_classes:
        raise ValueError(f"classes {len(classes)}, colors {len(colors)}: the model has {model.num_classes} classes")
    config = ModelConfig(
        model=settings,
        space=space_name,
        classes=tuple(classes),
        colors=tuple(tuple(int(v) for v in color) for color in colors),  # pyright: ignore[reportArgumentType]
        extra=dict(extra or {}),
    )
    folder = Path(folder)
    # A tensor that two names share would be refused; each name gets its own copy.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with whole_file(folder / TENSORS) as file:
        save_file(tensors, file.name)
    write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    return folder


def load_model(folder: str | Path) -> tuple[Segmenter, ModelConfig]:
    """Read a model that ``save_model`` wrote, from a folder or from ``hf://ORG/REPO``; it comes in eval mode.

    Raises:
        SegRefineryError: a file is missing or damaged, written by another version, or does not fit.
    """
    if str(folder).startswith("hf://"):
        config_path, tensors = hub_file(str(folder), CONFIG), hub_file(str(folder), TENSORS)
    else:
        config_path, tensors = Path(folder) / CONFIG, Path(folder) / TENSORS
    config = read_config(config_path)
    model = build_model(config.model.model_copy(update={"weights": "none"}), len(config.classes))
    load_weights(model, tensors)
    return model.eval(), config


def read_config(path: Path) -> ModelConfig:
    """The description of a saved model.

    Raises:
        SegRefineryError: missing, damaged, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SegRefineryError(f"{path}: not found, so {path.parent} is not a saved model.") from error
    except (ValueError, OSError) as error:
        raise SegRefineryError(f"{path}: not readable ({error}).") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise SegRefineryError(f"{path}: format {version!r}, but this version reads format {FORMAT}.")
    try:
        return ModelConfig(**content)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise SegRefineryError(f"{path}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}.") from error
