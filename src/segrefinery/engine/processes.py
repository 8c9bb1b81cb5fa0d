"""The processes of a run: one, or those that torchrun started."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch.distributed.distributed_c10d import Store

log = logging.getLogger(__name__)

_JOININGS = itertools.count()
_PATIENCE = timedelta(days=1)
"""Others wait while one looks at data, or for the slowest share."""


def rank() -> int:
    """This process's number among those that torchrun started; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def restarted() -> bool:
    """Whether torchrun started the processes anew after one of them had ended (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def join_others(device: torch.device) -> None:
    """Make torch's process group of the processes that torchrun started, for tensors on such a device.

    Each start of them by torchrun, and each joining, has a place of its own in the store: torch leaves the addresses
    there of the processes that died or have left, and gloo would wait for those.
    """
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    store, number, world = _meeting_place()
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"start {start}, group {next(_JOININGS)}", store)
    gpu = torch.device("cuda", device.index or 0) if device.type == "cuda" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
        atexit.register(leave_others)
    distributed.init_process_group(
        "nccl" if gpu else "gloo", store=store, rank=number, world_size=world, timeout=_PATIENCE, device_id=gpu
    )


@cache
def _meeting_place() -> tuple[Store, int, int]:
    """The store, this process's number and how many there are. One store serves all joinings: the first process keeps
    it, and another that joins again at once would ask the one of before, which then goes."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=_PATIENCE))


def leave_others() -> None:
    """End the process group, once all is done: a process that exits while gloo's threads still run may be aborted. Not
    after a fault, where a transfer may wait for one that has died."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def make_fabric(precision: str) -> Fabric:
    """The device, the precision, and the other processes if there are any."""
    import torch  # here, for only training needs these
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    from segrefinery.core.processor import has_bf16
    from segrefinery.engine.model import default_device

    accelerator = default_device().type
    mixed = precision == "bf16-mixed"
    if accelerator == "cuda" and mixed and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning(
            "training.precision: this GPU has no bfloat16 of its own, and torch emulates it; try --set "
            "training.precision=32-true"
        )
    if accelerator == "cpu" and mixed and has_bf16() is False:
        log.warning(
            "training.precision: this processor has no bfloat16 of its own (avx512_bf16, amx_bf16), and torch emulates "
            "it, which is slower; try --set training.precision=32-true"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        join_others(default_device())
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        fabric = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=world // local,
            strategy=DDPStrategy(),
            precision=precision,  # pyright: ignore[reportArgumentType]
        )
    else:
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # pyright: ignore[reportArgumentType]
    fabric.launch()
    return fabric
