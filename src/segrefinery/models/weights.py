"""A network as a folder: ``model.safetensors`` with the tensors and ``config.json`` with all it takes to rebuild it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, ValidationError, model_validator
from safetensors.torch import save as tensors_as_bytes
from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json, write_bytes, write_text
from segrefinery.core.settings import Settings
from segrefinery.models.networks import ModelSettings
from segrefinery.models.settings import CONFIG, TENSORS

FORMAT = 2


class NetworkConfig(Settings):
    """What ``config.json`` says of the network; who reads images with it adds more, which is passed over here."""

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    """Version of this file; a reader refuses a later one."""
    model: ModelSettings
    """The network."""
    space: str
    """Name of the label space."""
    classes: tuple[str, ...]
    """Class names, in the order of the logits."""
    colors: tuple[tuple[int, int, int], ...]
    """A colour a class."""

    @model_validator(mode="after")
    def _one_color_a_class(self) -> Self:
        if len(self.classes) != len(self.colors):
            raise ValueError(f"{len(self.classes)} classes, but {len(self.colors)} colors")
        return self


Config = TypeVar("Config", bound=NetworkConfig)


def save_network(folder: Path, network: nn.Module, config: NetworkConfig) -> None:
    """Write a network: the tensors first, so that a reader never finds a description of what is not there.

    Raises:
        SegRefineryError: the disk is full or the folder not writable; what was there before is whole.
    """
    # A tensor that two names share would be refused; each name gets its own copy.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    # The library's own writer would put another file in place of ours: one that is not held, not durable, and closed
    # to every other user.
    write_bytes(folder / TENSORS, tensors_as_bytes(tensors))
    write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")


def read_config(path: Path, kind: type[Config] = NetworkConfig) -> Config:
    """The description of a saved network.

    Raises:
        SegRefineryError: missing, damaged, or of a later version.
    """
    if not path.exists():
        raise SegRefineryError(f"{path}: not found, so {path.parent} is not a saved model.")
    content = read_json(path, "name another model, or train it again")
    version = content.get("format") if isinstance(content, dict) else None
    if version not in (1, FORMAT):
        raise SegRefineryError(f"{path}: format {version!r}, but this version reads format {FORMAT}.")
    try:
        return kind(**(_from_first_format(content) if version == 1 else content))
    except ValidationError as error:
        wrong = error.errors()[0]
        raise SegRefineryError(f"{path}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}.") from error


def _from_first_format(content: dict[str, Any]) -> dict[str, Any]:
    """The first format kept all but the network in a mapping of its own."""
    rest = content.get("extra")
    top_level = {key: value for key, value in content.items() if key != "extra"}
    return {**(rest if isinstance(rest, dict) else {}), **top_level, "format": FORMAT}
