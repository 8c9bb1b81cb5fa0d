"""The processes of a run: one, or those that torchrun started."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)


def rank() -> int:
    """This process's number among those that torchrun started; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


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
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        fabric = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=world // local,
            strategy=DDPStrategy(timeout=timedelta(days=1)),  # others wait while rank 0 looks at data or evaluates
            precision=precision,  # pyright: ignore[reportArgumentType]
        )
    else:
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # pyright: ignore[reportArgumentType]
    fabric.launch()
    return fabric
