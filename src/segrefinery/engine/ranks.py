"""How the processes of a distributed run agree with each other. Each holds the whole stage and works on its share of
every batch.

* Parameters never differ: gradients are averaged before the optimizers move (``engine.gradients``), and momentum copies
  follow from them.
* Running averages (class thresholds, prototypes, class distributions, norm statistics: all floating buffers) are
  averaged after every step. They are linear in what the images say, so one process would remember much the same of
  the whole batch.
* Memories of single pixels (``FeatureBank``) stay each process's own during a step. At a checkpoint all take rank 0's,
  whether the run is ever resumed or not, so one file holds the state of all and resuming is exact.
* Rank 0 alone looks at the data before a stage and writes files; the others start from its checkpoint. Images that
  score a model are shared (``engine.scorer``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segrefinery.refine.self_labeling.bank import FeatureBank

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@torch.no_grad()
def average_state(fabric: Fabric, module: nn.Module) -> None:
    """After a step: running averages become their mean over ranks."""
    if fabric.world_size == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in running_averages(module):
        by_type.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_type.values():
        for buffer, value in zip(buffers, mean_of_each(fabric, buffers), strict=True):
            buffer.copy_(value)


@torch.no_grad()
def share_memories(fabric: Fabric, module: nn.Module) -> None:
    """Before a checkpoint: every rank takes rank 0's memories of pixels."""
    if fabric.world_size == 1:
        return
    for bank in memories(module):
        for buffer in bank.buffers():
            buffer.copy_(fabric.broadcast(buffer.cpu()))


def gather_numbers(
    fabric: Fabric, values: dict[str, Tensor], told: Sequence[float] = ()
) -> tuple[dict[str, float], list[float]]:
    """Losses as floats, and other numbers, averaged over ranks; one transfer for all of them."""
    stacked = torch.stack([value.detach() for value in values.values()])
    if told:
        stacked = torch.cat([stacked, torch.tensor(told).to(stacked, non_blocking=True)])
    numbers = mean(fabric, stacked).tolist()
    return dict(zip(values, numbers, strict=False)), numbers[len(values) :]


def mean(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean over ranks."""
    if fabric.world_size == 1:
        return values
    means = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(means, Tensor)
    return means


def mean_of_each(fabric: Fabric, values: list[Tensor]) -> Iterator[Tensor]:
    """The means over ranks of tensors of one type, in one transfer."""
    if not values:
        return iter(())
    flat = mean(fabric, torch.cat([value.reshape(-1) for value in values]))
    parts = flat.split([value.numel() for value in values])
    return (part.view_as(value) for part, value in zip(parts, values, strict=True))


def memories(module: nn.Module) -> list[FeatureBank]:
    return [each for each in module.modules() if isinstance(each, FeatureBank)]


def running_averages(module: nn.Module) -> Iterable[Tensor]:
    """All floating buffers outside memories."""
    remembered = {id(buffer) for bank in memories(module) for buffer in bank.buffers()}
    return (each for each in module.buffers() if each.is_floating_point() and id(each) not in remembered)
