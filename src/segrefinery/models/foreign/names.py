"""Matching a checkpoint's names with a network's: what wrappers put before them, and what is left over."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from segrefinery.core.errors import SegRefineryError

_SHOWN = 4
_UNUSED = ("fc", "head", "classifier", "conv_seg", "num_batches_tracked", "relative_position_index", "attn_mask")
"""Parts of a checkpoint that compute nothing of a segmentation: classifiers of whole images, heads that a code makes
and does not call, counters, and tables that are made anew."""


def find_prefix(names: Iterable[str], expected: Iterable[str]) -> str:
    """What stands before most of a network's ``expected`` names in a checkpoint: ``model.`` where it says
    ``model.encoder.conv1.weight`` and the network ``encoder.conv1.weight``; the shortest of equals."""
    given = set(names)
    by_end: dict[str, list[str]] = {}
    for name in given:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)
    votes: Counter[str] = Counter()
    for name in expected:
        ends = by_end.get(name.rpartition(".")[2], ())
        votes.update(other.removesuffix(name) for other in ends if other == name or other.endswith(f".{name}"))
    return min(votes, key=lambda prefix: (-votes[prefix], len(prefix)), default="")


def fitted(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint under a network's own names, and in words what was stripped and left out.

    Shapes are the caller's to compare, for a classifier may be of other classes.

    Args:
        expected: the network's state. origin: names the checkpoint in the error.

    Raises:
        SegRefineryError: a tensor of the network is not there, listed with the nearest name of the checkpoint; or parts
            of the network have more tensors there, without which it would compute something else.
    """
    prefix = find_prefix(state, expected)
    stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # older torch had none
    missing = [name for name in expected if name not in stripped and name not in counters]
    if missing:
        near = [_with_nearest(name, stripped) for name in missing[:_SHOWN]]
        raise SegRefineryError(
            f"{origin}: the weights do not fit the network: {len(missing)} of its {len(expected)} tensors are missing, "
            f"among them {'; '.join(near)}. Check model.name and model.options"
        )
    notes = [f"the prefix {prefix!r} was taken off the names"] if prefix else []
    extra = [name for name in state if name.removeprefix(prefix) not in expected or not name.startswith(prefix)]
    if extra:
        shown = ", ".join(extra[:_SHOWN]) + (", ..." if len(extra) > _SHOWN else "")
        if inside := _inside(extra, prefix, expected):
            raise SegRefineryError(
                f"{origin}: {inside[0].partition('.')[0]} has {len(inside)} tensors more there than here, among them "
                f"{inside[0]}: the network was made with other options, and would compute something else without them. "
                "Check model.options"
            )
        notes.append(f"{len(extra)} tensors are not the network's and were left out: {shown}")
    return {name: stripped.get(name, expected[name]) for name in expected}, notes


def _inside(extra: Iterable[str], prefix: str, expected: Iterable[str]) -> list[str]:
    """Of the tensors that a network lacks, those that parts of it would compute with."""
    parts = {name.partition(".")[0] for name in expected}
    names = (name.removeprefix(prefix) for name in extra if name.startswith(prefix))
    split = ((name, *name.split(".")) for name in names)
    return [name for name, part, *rest in split if part in parts and not set(rest) & set(_UNUSED)]


def _with_nearest(name: str, others: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(others), n=1, cutoff=0.5)
    return f"{name} (the nearest there: {near[0]})" if near else name
