"""A network that batch norm cannot train on one image is known before training."""

from __future__ import annotations

import torch
from torch import nn

from segrefinery.engine.fits import pools_to_one_cell


def test_a_batch_norm_behind_a_pooling_of_the_whole_sees_one_cell_and_is_left_as_it_was():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)).eval()
    assert not pools_to_one_cell(plain, (64, 64))
    assert pools_to_one_cell(pooled, (64, 64))
    assert not pooled.training
    assert torch.equal(plain[1].running_mean, torch.zeros(4))
