"""Bilinear resizing as small matrix products, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from segrefinery.core.resize import bilinear, nearest, resample


def by_products(maps, size):
    for dim, length in zip((-2, -1), size, strict=True):
        maps = resample(maps, dim, length)
    return maps


@pytest.mark.parametrize("size", [(16, 24), (37, 5), (3, 4), (1, 1), (8, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_torchs_interpolation(size, dtype):
    maps = torch.randn(2, 3, 8, 12, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    found = by_products(maps, size)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    pull = torch.randn_like(expected)
    (there,) = torch.autograd.grad(expected, maps, pull)
    (here,) = torch.autograd.grad(found, maps, pull)
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("pixels", "cells", "places"), [
    (12, 3, [2, 6, 10]), (9, 3, [1, 4, 7]), (5, 2, [1, 3]), (7, 7, [0, 1, 2, 3, 4, 5, 6]),
    (2, 5, [0, 0, 1, 1, 1]), (2, 6, [0, 0, 0, 1, 1, 1]), (16, 2, [4, 12]),
])  # fmt: skip
def test_a_cell_takes_the_pixel_under_its_centre(pixels, cells, places):
    label = torch.arange(pixels)[None, :, None].expand(1, pixels, 3)
    shrunk = nearest(label, (cells, 3))
    assert shrunk.dtype == torch.int64
    assert shrunk[0, :, 0].tolist() == places
    assert nearest(label.mT, (3, cells))[0, 0].tolist() == places


def test_on_a_processor_it_is_torchs_own():
    maps = torch.randn(1, 2, 5, 7)
    expected = F.interpolate(maps, (9, 20), mode="bilinear", align_corners=False)
    assert torch.equal(bilinear(maps, (9, 20)), expected)


def test_autocast_does_not_round_the_places():
    maps = torch.randn(1, 2, 100, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found = resample(maps.bfloat16(), -2, 333)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, resample(maps.bfloat16().float(), -2, 333))
