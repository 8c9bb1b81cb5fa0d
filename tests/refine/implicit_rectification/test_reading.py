"""Reading grids at any point."""

import torch
import torch.nn.functional as F

from segrefinery.refine.implicit_rectification.formulas import (
    locate,
    locate_jointly,
    nearest_pixel,
    pixel_centres,
    sample,
)


def points(count: int = 200, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_centres_by_hand():
    assert pixel_centres((1, 2)).tolist() == [[0.0, -0.5], [0.0, 0.5]]
    torch.testing.assert_close(pixel_centres((4, 1))[:, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_areas_sum_to_one_and_offsets_are_in_half_cells():
    sites = locate(points(), (5, 7))
    torch.testing.assert_close(sites.area.sum(dim=1), torch.ones(2, 200))
    assert sites.offset.abs().max() <= 2
    nearest = locate(points(), (5, 7), ensemble="nearest")
    assert nearest.offset.abs().max() <= 1 + 1e-5
    by_hand = locate(torch.tensor([[[-0.75, 0.1]]]), (4, 5))  # centre of row 0; 0.25 of a cell right of column 2
    assert by_hand.index[0, :, 0].tolist() == [2, 3, 7, 8]
    torch.testing.assert_close(by_hand.area[0, :, 0], torch.tensor([0.75, 0.25, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(by_hand.offset[0, 1, 0], torch.tensor([0.0, -1.5]), atol=1e-5, rtol=0)


def test_samples_are_bilinear():
    grid = torch.randn(2, 3, 5, 7)
    expected = F.grid_sample(grid, points()[:, :, None].flip(-1), padding_mode="border", align_corners=False)[..., 0]
    torch.testing.assert_close(sample(grid, locate(points(), (5, 7))), expected)
    dense = sample(grid, locate(pixel_centres((10, 21)).expand(2, -1, -1), (5, 7))).unflatten(-1, (10, 21))
    torch.testing.assert_close(dense, F.interpolate(grid, (10, 21), mode="bilinear"))


def test_a_box_is_read_on_its_own_grid():
    grid = torch.randn(1, 3, 4, 4)
    box = (0.5, 0.0, 1.0, 0.5)
    seen = locate(pixel_centres((8, 8))[None], (4, 4), box)
    inside = seen.inside[0].view(8, 8)
    assert inside[4:, :4].all()
    assert inside.sum() == 16
    torch.testing.assert_close(sample(grid, seen).view(1, 3, 8, 8)[:, :, 4:, :4], grid)


def test_joint_areas_are_those_of_the_finest_whole_grid():
    fine, coarse = locate_jointly(points(), [(6, 6), (4, 4)], [(0, 0, 1, 1)] * 2)
    own = locate(points(), (6, 6))
    assert torch.equal(fine.area, own.area)
    assert torch.equal(coarse.area, own.area)
    torch.testing.assert_close(fine.index, own.index)
    assert coarse.index.max() < 16


def test_nearest_pixel():
    label = torch.arange(6).view(1, 2, 3)
    corners = torch.tensor([[[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.001, 0.0], [-0.001, -0.34]]])
    assert nearest_pixel(label, corners).tolist() == [[0, 2, 5, 4, 0]]
    assert nearest_pixel(label, pixel_centres((2, 3))[None]).tolist() == [list(range(6))]
