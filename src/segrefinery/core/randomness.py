"""Randomness without state: every generator is a function of a key, so a run resumes from its step number alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of the key, the same on any machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by the key, for instance ``generator(seed, "mix", step, slot)``."""
    import torch

    return torch.Generator().manual_seed(seed_of(*key))
