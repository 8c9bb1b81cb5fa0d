import pytest
import torch
import torch.nn.functional as F

from refine.steps import source_step
from segrefinery.core.randomness import generator
from segrefinery.data.augment import AffineViewSettings, Warp
from segrefinery.data.photometric import normalize
from segrefinery.losses import kl_divergence
from segrefinery.models.segmenter import Prediction
from segrefinery.refine.base import Step
from segrefinery.refine.consistency import StrongView, look_at_strong_view
from toys import labeled, unlabeled


class Echo(torch.nn.Module):
    """Its logits are the image, so that image and map can be compared."""

    def forward(self, image):
        return Prediction(image, image)


def step_with(student, seed=0, **fields):
    random = [generator(seed, slot) for slot in range(2)]
    return Step(0, student, source_step(student, labeled()), generators=random, **fields)


@pytest.mark.parametrize("seed", range(6))
def test_a_map_moves_as_its_image_does(seed):
    settings = AffineViewSettings(blur=0.0, jitter_probability=0.0, operations=0, cutout=0.5)
    image = normalize(torch.rand(2, 3, 32, 48))
    strong = look_at_strong_view(step_with(Echo(), seed), image, settings)
    assert strong.compare(kl_divergence, image, strong.prediction.logits).item() == pytest.approx(0, abs=1e-5)


def test_a_map_in_half_precision_is_moved_in_float32():
    """Between the cells 0 and 1 of a map turned by 9 degrees lie numbers that bfloat16 has not."""
    angle = torch.tensor(9.0).deg2rad()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    warp = Warp(torch.cat([turn, torch.zeros(2, 1)], dim=1)[None], torch.zeros(1, 4))
    weak = torch.arange(2 * 8 * 8).view(1, 2, 8, 8).remainder(7).bfloat16()
    grid = F.affine_grid(warp.matrix, [1, 1, 8, 8], align_corners=False)
    wanted = F.grid_sample(weak.float(), grid, padding_mode="border", align_corners=False)
    seen = []
    strong = StrongView(Prediction(weak, weak), warp)
    strong.compare(lambda weak, strong, mask: seen.append((weak, mask)) or weak.sum(), weak, weak)
    moved, covered = seen[0]
    assert moved.dtype == torch.float32
    covered = covered[:, None].expand_as(moved)
    torch.testing.assert_close(moved[covered], wanted[covered])
    assert (wanted[covered] != wanted[covered].bfloat16()).any()


def test_uncovered_pixels_count_for_nothing():
    strong = look_at_strong_view(step_with(Echo()), unlabeled().image, AffineViewSettings(cutout=0.5))
    seen = []
    weak = torch.zeros(2, 3, 32, 48)
    strong.compare(lambda weak, strong, mask: seen.append(mask) or weak.sum(), weak, weak)
    assert 0 < seen[0].float().mean() < 1


def test_what_is_cut_out_is_grey_whatever_the_normalisation():
    normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    step = step_with(Echo(), normalization=normalization)
    still = AffineViewSettings(flip=0, blur=0, jitter_probability=0, operations=0, cutout=1.0)
    shown = look_at_strong_view(step, unlabeled().image, still).prediction.logits
    grey = normalize(torch.full((1, 3, 1, 1), 127 / 255), *normalization)
    assert (shown - grey).abs().amax(dim=1).lt(1e-5).any()


def test_the_photometric_view_keeps_the_geometry():
    image = unlabeled().image
    strong = look_at_strong_view(step_with(Echo(), strong=lambda image: image + 1), image, None)
    assert strong.warp is None
    torch.testing.assert_close(strong.prediction.logits, image + 1)
