"""The precision that formulas are computed in, and constants in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is if that is float64: no formula is computed in less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def constant(values: Sequence[object], like: Tensor) -> Tensor:
    """Numbers in the type and on the device of a tensor; a GPU is not waited for, as ``new_tensor`` would."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
