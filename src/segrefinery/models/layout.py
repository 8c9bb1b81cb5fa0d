"""Adapted weights in the layout of a checkpoint, which its owner's code loads.

The tables by which a checkpoint is read say how it is written: they are given the number of each value in place of the
value, and tell so where every value of ours came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.models.foreign.smp import its_names
from segrefinery.models.networks import ModelSettings
from segrefinery.models.start import classes_of, of_tensors
from segrefinery.models.states import chosen_tensors, read_checkpoint
from segrefinery.models.trained import NOT_THE_CLASS, StartModel, class_tensors, some

OF_TRAINING = ("optimizer", "optimizers", "optimizer_states", "scheduler", "lr_scheduler", "lr_schedulers")
"""What a checkpoint keeps of its own training, which says nothing of other weights."""


@dataclass
class Relaid:
    """Weights as their owner's code loads them.

    Attributes:
        tensors: by the checkpoint's names. content: the same where the checkpoint keeps them, and what is plain of the
            rest.
        key: under which names, one in the other, the tensors lie in ``content``; none where they are all of it.
        notes: what was left out, or left as it was.
    """

    tensors: dict[str, Tensor]
    content: dict[str, Any]
    key: tuple[str, ...]
    notes: list[str]


def library_names(network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A network's tensors as the library or the module that it wraps names them; None of a network of ours."""
    kind = network.partition(":")[0]
    if kind == "smp":
        return its_names(state)
    if kind in ("torchvision", "transformers", "wrapped"):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return None


def in_layout_of(
    path: Path, network: ModelSettings, state: Mapping[str, Tensor], classes: Sequence[str],
    named: tuple[str, ...] | None = None,
) -> Relaid:  # fmt: skip
    """A network's tensors in the names, shapes and order of classes of a checkpoint.

    Args:
        state: under our names. classes: its classes. named: the checkpoint's, where the user has named them.

    Raises:
        SegRefineryError: the checkpoint is of another network, lacks one of the classes, or does not say its own.
    """
    checkpoint = read_checkpoint(path)
    tensors, _ = chosen_tensors(checkpoint, str(path))
    numbers, ends = numbered(tensors)
    start = of_tensors(numbers, path, network, classes_of(checkpoint))
    start.classes = named or start.classes
    if (start.network.name, start.network.options) != (network.name, network.options):
        raise SegRefineryError(
            f"{path}: is a checkpoint of {start.network.name}, and this model's network is {network.name} (options "
            f"{network.options}); name one of the same network with --like"
        )
    pick = one_row if start.num_classes == 1 else rows_of
    rows, kept = pick(start, classes, state)
    relaid = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors.values()]
    taught = put_back(relaid, ends, rows, kept)
    written = dict(zip(tensors, relaid, strict=True))
    again = replace(start, state=of_tensors(dict(written), path, network, None).state)
    for name, read in pick(again, classes, state)[0].items():
        there = rows[name] > 0
        if not torch.equal(read[there], kept[name][there].to(read.dtype)):
            raise SegRefineryError(f"{path}: cannot be written in this layout: {name} is read back as something else")
    notes = []
    dropped = [name for name in start.classes or () if start.num_classes > 1 and name not in matched(start, classes)]
    if dropped:
        notes.append(f"the rows of {some(dropped)}, which this model has not, are as they were")
    if others := [name for number, name in enumerate(tensors) if number not in taught]:
        notes.append(f"{len(others)} tensors that are not the network's are as they were: {some(others)}")
    left_out: list[str] = []
    key = place_of(checkpoint, tensors)
    content = written if not key else with_state(checkpoint, key, written, left_out)
    if left_out:
        notes.append(f"left out: {some(left_out)}")
    return Relaid(written, content, key, notes)


def numbered(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Tensors whose values are their numbers, counted from 1 through all of them, and the last number of each."""
    ends = torch.tensor([tensor.numel() for tensor in tensors.values()]).cumsum(0)
    numbers = {}
    for (name, tensor), end in zip(tensors.items(), ends.tolist(), strict=True):
        numbers[name] = torch.arange(end - tensor.numel() + 1, end + 1).reshape(tensor.shape)
    return numbers, ends


def rows_of(
    start: StartModel, classes: Sequence[str], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Name -> numbers, and name -> values, of equal shapes: of classifiers the rows that both have."""
    rows = start.rows(classes)
    if new := [name for name, row in zip(classes, rows, strict=True) if row < 0]:
        raise SegRefineryError(
            f"{start.origin}: has no class {some(new)}, only {some(start.named_classes)}, so its layout has no place "
            "for them; --format onnx or torch writes this model"
        )
    numbers = dict(start.state)
    for name in class_tensors(start.network):
        numbers[name] = numbers[name][torch.tensor(rows)]
    return numbers, dict(state)


def one_row(
    start: StartModel, classes: Sequence[str], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of a checkpoint of one class: sigmoid(b - a) is softmax(a, b)."""
    names = start.classes if start.classes and len(start.classes) == 2 else (NOT_THE_CLASS, *(start.classes or ("",)))
    two = StartModel(start.origin, start.network, {}, 2, names)
    rows = two.rows(classes)
    if sorted(rows) != [0, 1]:
        raise SegRefineryError(
            f"{start.origin}: has one class, read as {some(names)}, and this model has {some(classes)}; --format onnx "
            "or torch writes it"
        )
    values = dict(state)
    for name in class_tensors(start.network):
        values[name] = (state[name][rows.index(1)] - state[name][rows.index(0)])[None]
    return dict(start.state), values


def put_back(
    tensors: Sequence[Tensor], ends: Tensor, numbers: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> set[int]:
    """Write values where their numbers say, in place -> the places of the tensors that got some. A number of 0 is of a
    value that the checkpoint does not have (a counter that older torch had not)."""
    taught: set[int] = set()
    for name, places in numbers.items():
        where, given = places.flatten().long(), values[name].detach().flatten()
        of = torch.bucketize(where, ends)
        for number in of[where > 0].unique().tolist():
            here = (of == number) & (where > 0)
            first = int(ends[number]) - tensors[number].numel() + 1
            tensors[number].view(-1)[where[here] - first] = given[here].to(tensors[number].dtype)
            taught.add(number)
    return taught


def matched(start: StartModel, classes: Sequence[str]) -> set[str]:
    return {start.named_classes[row] for row in start.rows(classes)}


def place_of(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names, one in the other, under which a checkpoint keeps the tensors."""
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            if value.keys() == tensors.keys() and all(value[each] is tensors[each] for each in tensors):
                return (name,)
            if inside := place_of(value, tensors):
                return (name, *inside)
    return ()


def with_state(
    content: Mapping[str, Any], key: tuple[str, ...], tensors: dict[str, Tensor], left_out: list[str]
) -> dict[str, Any]:
    """What a checkpoint holds, with other tensors under ``key``; names in ``left_out`` what is neither plain nor a
    tensor, or of the old weights' training."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        if name == key[0]:
            kept[name] = with_state(value, key[1:], tensors, left_out) if key[1:] else tensors
        elif str(name) in OF_TRAINING:
            left_out.append(str(name))
        else:
            kept |= plain_parts({name: value}, "", left_out)
    return kept


def plain_parts(content: Mapping[Any, Any], place: str, left_out: list[str]) -> dict[Any, Any]:
    """What of a mapping is plain or a tensor; adds to ``left_out`` what is not."""
    kept = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            kept[name] = plain_parts(value, f"{place}{name}.", left_out)
        elif is_plain(value):
            kept[name] = value
        else:
            left_out.append(f"{place}{name}")
    return kept


def is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(is_plain(each) for each in value)
    return value is None or isinstance(value, Tensor | str | bytes | int | float)
