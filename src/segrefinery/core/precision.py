"""The precision that formulas are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is if that is float64: no formula is computed in less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
