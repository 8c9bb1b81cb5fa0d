"""What determinism asks of torch, and that it is as before afterwards."""

from __future__ import annotations

import torch

from segrefinery.engine.environment import deterministic


def test_new_tensors_are_not_filled_first_and_the_caller_gets_his_switches_back():
    before = torch.utils.deterministic.fill_uninitialized_memory
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == before
