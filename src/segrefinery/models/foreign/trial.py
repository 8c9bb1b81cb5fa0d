"""Which images a library's network takes, found by trying: it depends on how the network was configured."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def takes(network: nn.Module, height: int, width: int, **arguments: Any) -> bool:
    """Whether a network reads a colour image of such sides; it is left in the mode that it was in."""
    training, tensor = network.training, next(network.parameters())
    network.eval()
    try:
        network(tensor.new_zeros(1, 3, height, width), **arguments)
    except Exception:  # it raises whatever its parts raise
        return False
    finally:
        network.train(training)
    return True
