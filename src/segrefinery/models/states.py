"""Weights from files: read without executing code, and never loaded in silence when names or shapes differ."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.core.hub import why_unreachable
from segrefinery.models.settings import TENSORS
from segrefinery.models.torch_file import FETCH, is_cut, read_torch_file, refuse_no_weights, with_states

log = logging.getLogger(__name__)

_SHOWN = 4


WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "state")
"""Under which names trainers keep the tensors of the network that was trained, in the order they are looked for."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a safetensors file or a torch file holds; no code of the latter is run (see ``torch_file``).

    Raises:
        SegRefineryError: no such file, not a weights file, or a pickle that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        inside = f"name a file in this folder, as {path / TENSORS}" if path.is_dir() else "check the path"
        raise SegRefineryError(f"{path}: is no file of weights; {inside}")
    refuse_no_weights(path)
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            if is_cut(error):
                raise SegRefineryError(f"{path}: is cut short, as by half a download; {FETCH}") from error
            raise SegRefineryError(f"{path}: not a readable safetensors file ({error}).") from error
    loaded = with_states(read_torch_file(path))
    if not isinstance(loaded, Mapping):
        raise SegRefineryError(f"{path}: holds no mapping of names to tensors (a state_dict).")
    return dict(loaded)


def tensors_of(checkpoint: Mapping[str, Any], origin: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint; see ``chosen_tensors``, whose notes are logged."""
    tensors, notes = chosen_tensors(checkpoint, origin)
    for note in notes:
        log.warning("%s: %s", origin, note)
    return tensors


def chosen_tensors(checkpoint: Mapping[str, Any], origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, its own or those under a name of ``WRAPPERS``, and what it holds beside them that
    could have been meant: another state, such as an average of the weights.

    Raises:
        SegRefineryError: there are none, or several of which none has a name that we know.
    """
    if _is_state(checkpoint):
        return dict(checkpoint), []
    states = {str(key): value for key, value in checkpoint.items() if _is_state(value)}
    known = [key for key in WRAPPERS if key in states]
    for key in WRAPPERS if not known else ():
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping) and any(_is_state(inner.get(each)) for each in WRAPPERS):
            return chosen_tensors(inner, origin)
    known = known or list(states)
    if not known:
        raise SegRefineryError(f"{origin}: holds no mapping of names to tensors (a state_dict).")
    if len(known) > 1 and known[0] not in WRAPPERS:
        raise SegRefineryError(
            f"{origin}: holds several states ({', '.join(known)}), and nothing says which is meant; save one alone"
        )
    others = [key for key in states if key != known[0]]
    said = f"{known[0]} is read; left out: {', '.join(others)} (to start from one of these, save it alone)"
    return dict(states[known[0]]), [said] if others else []


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(each, Tensor) for each in content.values())


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file, which may hold them under a name of ``WRAPPERS``.

    Raises:
        SegRefineryError: see ``read_checkpoint`` and ``tensors_of``.
    """
    return tensors_of(read_checkpoint(path), str(path))


def load_state(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors whose names and shapes are exactly the module's; ``origin`` names them in the error.

    Raises:
        SegRefineryError: names or shapes differ, of which the message lists the first few, or weights are whole
            numbers. Nothing has been loaded then.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    differing = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", differing))
        if names
    ]
    if problems:
        raise SegRefineryError(
            f"{origin}: the weights do not fit {type(module).__name__} ({'; '.join(problems)}). "
            "Check the network's name, options and number of classes."
        )
    refuse_quantised(state, expected, origin)
    module.load_state_dict(dict(state))


def refuse_quantised(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    """Refuse whole numbers where a network has weights, which torch would take for these.

    Raises:
        SegRefineryError: names the first such tensor.
    """
    for name, tensor in expected.items():
        if tensor.is_floating_point() and not state[name].is_floating_point():
            raise SegRefineryError(
                f"{origin}: {name} is of {str(state[name].dtype).removeprefix('torch.')}, as of a quantised network; "
                "save its weights in floating point"
            )


def refuse_not_finite(origin: str, network: nn.Module) -> None:
    """Raises:
    SegRefineryError: weights or statistics of batch norms are infinite or no numbers, as a training leaves them
        that failed, or a number that was too large for float16."""
    statistics = ((name, buffer) for name, buffer in network.named_buffers() if ".running_" in f".{name}")
    for name, weights in (*network.named_parameters(), *statistics):
        if not bool(weights.isfinite().all()):
            raise SegRefineryError(f"{origin}: {name} holds values that are not finite; name weights from before that")


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a ``.safetensors`` file or a torch file into a module, which must have exactly its names and shapes.

    Raises:
        SegRefineryError: see ``read_state`` and ``load_state``.
    """
    load_state(module, read_state(path), str(path))


class MissingWeights(SegRefineryError):
    """Published weights cannot be had: a new network can do without them, a model to start from cannot."""


def downloaded(url: str) -> Path:
    """The local copy of a published weights file, fetched into torch's hub cache if it is not there.

    Raises:
        MissingWeights: it cannot be fetched; the message says which file is wanted and where to put it.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("downloading %s to %s", url, path)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_prefix(path.name))
        except (OSError, RuntimeError) as error:
            raise MissingWeights(
                f"cannot download the pre-trained weights {url} ({first_line(error)}). Put that file at {path}."
            ) from error
    prefix = _hash_prefix(path.name)
    if prefix and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(prefix):
        raise SegRefineryError(f"{path}: damaged, its checksum does not begin with {prefix}. Delete it and try again.")
    return path


def _hash_prefix(filename: str) -> str | None:
    digits = re.search(r"-([0-9a-f]{8,})\.", filename)
    return digits[1] if digits else None


def hub_file(address: str, filename: str) -> Path:
    """The local copy of a file of the repository ``hf://ORG/REPO`` or ``hf://ORG/REPO@REVISION``: from the hub's cache
    without a look at the network, or else fetched.

    Raises:
        SegRefineryError: malformed address, no such repository or file, or no way to fetch it.
    """
    from huggingface_hub import hf_hub_download

    repository, _, revision = address.removeprefix("hf://").partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise SegRefineryError(f"{address}: expected hf://ORG/REPO.")
    cached = in_hub_cache(repository, filename, revision or None)
    if cached:
        return cached
    require_hub(repository)
    try:
        return Path(hf_hub_download(repository, filename, revision=revision or None))
    except (OSError, ValueError) as error:
        raise missing_hub_weights(repository) from error


def in_hub_cache(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Where the hub's cache holds a file, or None."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, filename, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def require_hub(repository: str) -> None:
    """Fail at once where the hub cannot be reached, instead of after a minute of its client's retries.

    Raises:
        SegRefineryError: the hub is switched off, or its host is unknown or does not answer.
    """
    if reason := why_unreachable():
        raise missing_hub_weights(repository) from OSError(reason)


def missing_hub_weights(repository: str) -> MissingWeights:
    """The error for weights that are neither in the hub's cache nor to be had from it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return MissingWeights(
        f"the weights of {repository} are not in the hub's cache {HF_HUB_CACHE} and cannot be fetched. "
        f"Run 'hf download {repository}' on a connected machine and copy that cache here (HF_HUB_CACHE names it)."
    )


def damaged(weights: str, error: Exception) -> MissingWeights:
    """The error for published weights of which the cache holds a part."""
    return MissingWeights(
        f"{weights}: the weights in the cache are damaged ({first_line(error)}); delete them there, so that they are "
        "fetched again."
    )
