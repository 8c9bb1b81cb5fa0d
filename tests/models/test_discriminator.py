import itertools

import pytest
import torch

from segrefinery.models.discriminator import Discriminator


def test_shape_and_size():
    net = Discriminator(19)
    assert net(torch.randn(2, 19, 64, 96)).shape == (2, 1, 2, 3)
    widths = [19, 64, 128, 256, 512, 1]
    expected = sum(16 * before * after + after for before, after in itertools.pairwise(widths))
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


def test_too_small_an_input_is_named():
    with pytest.raises(ValueError, match="at least 32 x 32"):
        Discriminator(3, 8)(torch.randn(1, 3, 31, 64))
