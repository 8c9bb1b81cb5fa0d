"""Matching a checkpoint's names with a network's: what wrappers put before them, and what is left over."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from torch import Tensor

from segrefinery.core.errors import SegRefineryError

_SHOWN = 4
_UNUSED = ("fc", "head", "classifier", "conv_seg", "num_batches_tracked", "relative_position_index", "attn_mask")
"""Parts of a checkpoint that compute nothing of a segmentation: classifiers of whole images, heads that a code makes
and does not call, counters, and tables that are made anew."""


_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch itself puts before the names of a part that it compiles, shares out or recomputes."""
_COPIES = frozenset(
    ("avg", "average", "averaged", "compiled", "copy", "ema", "momentum", "moving", "shadow", "swa", "teacher")
)
"""Words for what follows the network that is trained."""
_TRAINED = frozenset(("model", "module", "net", "network", "student", "segmentor", "segmenter"))


def without_wrappers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by the names of their own module, and in words what was taken out of the names."""
    there = [wrapper for wrapper in _WRAPPERS if any(wrapper in name for name in state)]
    plain = dict(state)
    for wrapper in there:
        plain = {name.replace(wrapper, ""): tensor for name, tensor in plain.items()}
    if len(plain) != len(state):  # something is there with and without: which one is meant is for the prefix to say
        return dict(state), []
    return plain, [f"{', '.join(map(repr, there))} was taken out of the names"] if there else []


def trained_one(prefixes: Iterable[str], origin: str) -> str:
    """Of the prefixes that a network has in a checkpoint, that of the trained one: not of its average or teacher, nor
    of a part of another one.

    Raises:
        SegRefineryError: there are several, and nothing says which is meant.
    """
    whole = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    outer = [prefix for prefix in whole if not any(prefix != other and prefix.startswith(other) for other in whole)]
    shared = _shared(outer)  # tells none apart
    parts = {prefix: prefix.lower().split(".")[shared:] for prefix in outer}
    copies = {prefix for prefix in outer if _COPIES & {word for part in parts[prefix] for word in part.split("_")}}
    left = [prefix for prefix in outer if prefix not in copies] or outer
    if len(left) > 1:
        left = [prefix for prefix in left if _TRAINED & set(parts[prefix][:1])] or left
    if len(left) > 1:
        names = ", ".join(prefix.rstrip(".") for prefix in left)
        raise SegRefineryError(
            f"{origin}: holds several such networks ({names}), and nothing says which is meant; save one alone"
        )
    return left[0] if left else ""


def _shared(names: Iterable[str]) -> int:
    """How many of their words names have in common, from the first on."""
    words = zip(*(name.split(".") for name in names), strict=False)
    return sum(1 for _ in takewhile(lambda there: len(set(there)) == 1, words))


def find_prefix(names: Iterable[str], expected: Iterable[str], origin: str) -> str:
    """What stands before most of a network's ``expected`` names in a checkpoint: ``model.`` where it says
    ``model.encoder.conv1.weight`` and the network ``encoder.conv1.weight``.

    Raises:
        SegRefineryError: as ``trained_one``.
    """
    given, wanted = set(names), list(expected)
    by_end: dict[str, list[str]] = {}
    for name in given:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)
    votes: Counter[str] = Counter()
    for name in wanted:
        ends = by_end.get(name.rpartition(".")[2], ())
        votes.update(other.removesuffix(name) for other in ends if other == name or other.endswith(f".{name}"))
    most = max(votes.values(), default=0)
    best = [prefix for prefix, count in votes.items() if count == most]
    if 2 * most < len(wanted):  # another network's names, which agree here and there
        return min(best, key=len, default="")
    return trained_one(best, origin)


def alone(state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under a prefix, without it, and the names up to where they depart from it of what else there is."""
    others = [name for name in state if not name.startswith(prefix)]
    starts = {".".join(name.split(".")[: _shared((name, prefix)) + 1]) for name in others}
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}, sorted(starts)


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
    prefix = find_prefix(state, expected, origin)
    stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # older torch had none
    missing = [name for name in expected if name not in stripped and name not in counters]
    if missing:
        raise SegRefineryError(
            f"{origin}: the weights do not fit the network: {len(missing)} of its {len(expected)} tensors are missing; "
            f"{_where_they_are(missing, stripped, state, expected)}"
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


def _where_they_are(
    missing: Sequence[str], stripped: Iterable[str], state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str:
    """In words, with a remedy: what whole parts of a network are called in a checkpoint; else the nearest names there
    of the first tensors of two parts."""
    parts: dict[str, list[str]] = {}
    for name in missing:
        parts.setdefault(name.partition(".")[0], []).append(name)
    moved = {part: place for part, names in parts.items() if (place := _moved(part, names, state, expected))}
    if moved:
        others = [name for part, names in parts.items() if part not in moved for name in names]
        said = " and ".join(f"{part}.* is called {place}*" for part, place in moved.items())
        rest = f", and {len(others)} are nowhere ({', '.join(others[:2])})" if others else ""
        return f"{said} there{rest}; rename them, and save it again"
    first = [_with_nearest(names[0], stripped) for names in list(parts.values())[:2]]
    return f"the first are {' and '.join(first)}. Check model.name and model.options"


def _moved(part: str, names: Sequence[str], state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """What stands in a checkpoint in the place of a part and its dot, where all of the part is under it."""
    ends: dict[str, list[str]] = {}
    for other in state:
        ends.setdefault(other.rpartition(".")[2], []).append(other)
    places: Counter[str] = Counter()
    for name in names:
        rest = name.removeprefix(f"{part}.")
        near = (other for other in ends.get(rest.rpartition(".")[2], ()) if f".{other}".endswith(f".{rest}"))
        places.update(other.removesuffix(rest) for other in near if state[other].shape == expected[name].shape)
    whole = [place for place, count in places.items() if count == len(names)]
    return min(whole, key=len) if whole and len(names) > 2 else None  # two names are met by chance


def _with_nearest(name: str, others: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(others), n=1, cutoff=0.5)
    return f"{name} (the nearest there: {near[0]})" if near else name
