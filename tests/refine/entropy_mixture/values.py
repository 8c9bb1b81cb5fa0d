"""Entropies to fit mixtures to."""

import torch
from torch import Tensor


def normal(number: int, mean: float, std: float, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(number, generator=rng, dtype=torch.float64) * std + mean


def bimodal(number: int = 2000) -> Tensor:
    """1 x 1 x number: three quarters around 0.1, one quarter around 0.6."""
    values = torch.cat((normal(number * 3 // 4, 0.1, 0.03), normal(number // 4, 0.6, 0.1, 1)))
    return values.clamp(0, 1)[None, None]
