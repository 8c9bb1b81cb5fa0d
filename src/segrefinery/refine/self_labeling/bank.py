"""The last pixel features seen: a ring buffer that is written in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureBank(nn.Module):
    """The newest ``size`` rows pushed so far; all of it is in the state dict.

    Args:
        size: rows it holds.
        channels: D, numbers in a row.
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, channels))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Rows that hold something."""
        return min(int(self.pushed), len(self.rows))

    @property
    def content(self) -> Tensor:
        """len(self) x D, in no particular order; a view, not a copy."""
        return self.rows[: len(self)]

    @property
    def oldest(self) -> int:
        """Place in ``content`` of its oldest row; from there on, and then from 0, rows get younger."""
        pushed, size = int(self.pushed), len(self.rows)
        return pushed % size if pushed > size else 0

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Write n x D rows over the oldest ones; of more rows than the bank holds, the last ones stay."""
        size, start = len(self.rows), int(self.pushed)
        kept = rows[-size:].to(self.rows)
        place = (start + len(rows) - len(kept)) % size
        first = min(len(kept), size - place)
        self.rows[place : place + first] = kept[:first]
        self.rows[: len(kept) - first] = kept[first:]
        self.pushed += len(rows)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget everything."""
        self.rows.zero_()
        self.pushed.zero_()
