import pytest
import torch
from torchvision.transforms.v2 import functional as T

from segrefinery.core.randomness import generator
from segrefinery.data.augment import (
    AffineViewSettings,
    StrongViewSettings,
    Warp,
    affine_strong_view,
    apply_affine,
    strong_view,
)
from segrefinery.data.photometric import denormalize, gaussian_blur, normalize

STILL = AffineViewSettings(flip=0, blur=0, jitter_probability=0, operations=0, cutout=0)


def images(batch=4, size=(32, 48)):
    return normalize(torch.rand(batch, 3, *size, generator=generator("images")))


def generators(count, seed=0):
    return [generator(seed, place) for place in range(count)]


def warp(matrix, hole=(0.0, 0.0, 0.0, 0.0)):
    return Warp(torch.tensor([matrix]), torch.tensor([hole]))


@pytest.mark.parametrize("view", [strong_view, lambda *given: affine_strong_view(*given)[0]])
def test_a_view_is_a_function_of_its_generators(view):
    before = torch.random.get_rng_state()
    one, again, other = (view(images(), generators(4, seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == images().shape
    assert one.isfinite().all()
    alone = view(images()[2:3], generators(4)[2:3])
    assert alone.allclose(one[2:3], atol=1e-5)


def test_strong_view_keeps_places_and_range():
    flat = normalize(torch.full((8, 3, 16, 24), 0.5))
    flat[:, :, 4:8, 4:8] = normalize(torch.tensor([0.9, 0.2, 0.1]).view(3, 1, 1))
    view = denormalize(strong_view(flat, generators(8)))
    assert (view[:, :, 4:8, 4:8].mean(dim=(2, 3)) - view[:, :, 12:, 12:].mean(dim=(2, 3))).abs().amax(1).min() > 0.15
    assert view[:, :, 12:, 12:].std(dim=(2, 3)).max() < 1e-3
    assert 0 <= float(view.min()) <= float(view.max()) <= 1


def test_probability_zero_changes_nothing():
    still = StrongViewSettings(jitter_probability=0.0, blur_probability=0.0)
    assert strong_view(images(), generators(4), still).allclose(images(), atol=1e-5)
    view, moved = affine_strong_view(images(), generators(4), STILL)
    assert view.allclose(images(), atol=1e-4)
    assert moved.matrix.allclose(torch.eye(3)[:2])


def test_coins_fall_with_their_probabilities_and_may_be_shared():
    flat = normalize(torch.full((300, 3, 4, 4), 0.4))
    jittered = (strong_view(flat, generators(300)) - flat).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert jittered.float().mean() == pytest.approx(0.8, abs=0.07)
    for seed in range(8):
        shared = strong_view(flat[:20], generators(20, seed), StrongViewSettings(shared_coins=True))
        changed = (shared - flat[:20]).abs().amax(dim=(1, 2, 3)) > 1e-4
        assert changed.all() or not changed.any()


@pytest.mark.parametrize(("sigma", "taps"), [(0.4, None), (1.0, 51), (1.15, 5)])
def test_gaussian_blur_is_torchvisions(sigma, taps):
    image = torch.rand(3, 40, 30, generator=generator(0))
    expected = T.gaussian_blur(image, [taps or 15, taps or 15], [sigma, sigma])
    assert gaussian_blur(image, sigma, taps).allclose(expected, atol=1e-5)


def test_gaussian_blur_of_tiny_images():
    for size in ((1, 1), (2, 5), (1, 9)):
        blurred = gaussian_blur(torch.ones(3, *size), 1.0)
        assert blurred.allclose(torch.ones(3, *size))


def test_a_view_carries_no_gradient():
    given = images().requires_grad_()
    assert not strong_view(given, generators(4)).requires_grad
    assert not affine_strong_view(given, generators(4))[0].requires_grad


def test_each_image_needs_a_generator():
    with pytest.raises(ValueError, match="one an image"):
        strong_view(images(), generators(3))
    with pytest.raises(ValueError, match="one an image"):
        affine_strong_view(images(), generators(5))


def test_apply_affine_by_hand():
    label = torch.arange(6).repeat(4, 1)[None]
    same, uncovered = apply_affine(label, warp([[1.0, 0, 0], [0, 1, 0]]), "nearest", 255)
    assert torch.equal(same, label)
    assert same.dtype == label.dtype
    assert not uncovered.any()
    # A shift by a third of the width is two columns; nothing is known of what comes in on the left.
    shifted, uncovered = apply_affine(label, warp([[1.0, 0, -2 / 3], [0, 1, 0]]), "nearest", 255)
    assert shifted[0, 0].tolist() == [255, 255, 0, 1, 2, 3]
    assert uncovered[0, 0].tolist() == [True, True, False, False, False, False]
    mirrored, _ = apply_affine(label, warp([[-1.0, 0, 0], [0, 1, 0]]), "nearest", 255)
    assert torch.equal(mirrored, label.flip(-1))
    _, cut = apply_affine(label, warp([[1.0, 0, 0], [0, 1, 0]], (0.5, 0.0, 1.0, 0.5)), "nearest", 255)
    assert cut[0].tolist() == [[False] * 6] * 2 + [[True] * 3 + [False] * 3] * 2


def moving():
    return AffineViewSettings(blur=0, jitter_probability=0, operations=4, operation_probability=1)


def test_image_and_label_move_alike():
    label = torch.zeros(12, 64, 112, dtype=torch.int64)
    label[:, 20:50, 30:90] = 1
    picture = normalize(label[:, None].float().expand(-1, 3, -1, -1) * 0.6 + 0.2)
    view, moved = affine_strong_view(picture, generators(12), moving())
    turned, uncovered = apply_affine(label, moved, "nearest", 255)
    assert (moved.matrix - torch.eye(3)[:2]).abs().amax(dim=(1, 2)).gt(0.01).sum() > 8
    assert torch.equal(turned == 255, uncovered)
    grey = denormalize(view).mean(dim=1)
    for one, shown, hidden in zip(grey, turned, uncovered, strict=True):
        bright, dark = one[(shown == 1) & ~hidden], one[(shown == 0) & ~hidden]
        if len(bright) and len(dark):
            split = (float(bright.median()) + float(dark.median())) / 2
            apart = abs(float(bright.median()) - float(dark.median()))
            wrong = ((bright > split) != (bright.median() > split)).sum() + (
                (dark > split) != (dark.median() > split)
            ).sum()
            assert apart < 0.02 or int(wrong) < 0.04 * (len(bright) + len(dark))


def test_a_map_at_a_quarter_of_the_size_moves_alike():
    coarse = torch.rand(6, 2, 16, 28, generator=generator(0))
    fine = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    _, moved = affine_strong_view(images(6, (128, 224)), generators(6), moving())
    of_coarse, hidden_coarse = apply_affine(coarse, moved, "nearest")
    of_fine, hidden_fine = apply_affine(fine, moved, "nearest")
    of_fine, hidden_fine = of_fine[..., 4::8, 4::8], hidden_fine[:, 4::8, 4::8]
    agree = (of_coarse == of_fine).all(dim=1) | hidden_coarse | hidden_fine
    assert agree.float().mean() > 0.9
    assert (hidden_coarse == hidden_fine).float().mean() > 0.93


def test_turns_keep_shapes_in_pixels():
    from segrefinery.data.augment import _geometry

    height, width = 60, 120
    to_units = torch.diag(torch.tensor([2 / width, 2 / height, 1.0], dtype=torch.float64))
    pixels = torch.linalg.inv(to_units) @ _geometry("rotate", 1.0, height / width) @ to_units
    half = torch.tensor(3.0).sqrt().item() / 2
    assert pixels[:2, :2].allclose(torch.tensor([[half, -0.5], [0.5, half]], dtype=torch.float64))
    shear = torch.linalg.inv(to_units) @ _geometry("shear_x", 1.0, height / width) @ to_units
    assert shear[0, 1].item() == pytest.approx(0.3)
    shift = torch.linalg.inv(to_units) @ _geometry("translate_x", 1.0, height / width) @ to_units
    assert shift[:2, 2].tolist() == pytest.approx([0.3 * width, 0.0])


def test_cutout_is_a_grey_square_of_a_third():
    only = AffineViewSettings(flip=0, blur=0, jitter_probability=0, operations=0)
    white = normalize(torch.ones(30, 3, 30, 60))
    view, moved = affine_strong_view(white, generators(30), only)
    _, uncovered = apply_affine(torch.zeros(30, 30, 60), moved)
    assert denormalize(view)[:, 0][uncovered].allclose(torch.tensor(127 / 255), atol=1e-4)
    assert denormalize(view)[:, 0][~uncovered].allclose(torch.tensor(1.0), atol=1e-4)
    assert int(uncovered.sum(dim=(1, 2)).max()) == 100
    assert int(uncovered.sum(dim=(1, 2)).min()) >= 25


def test_every_operation_of_the_pool_gives_an_image():
    from segrefinery.data.augment import GEOMETRY, POOL, _color

    image = torch.rand(3, 8, 8, generator=generator(0))
    assert len(POOL) == 14
    for name in POOL[len(GEOMETRY) :]:
        for strength in (0.1, 0.9):
            changed = _color(name, image, strength)
            assert changed.shape == image.shape
            assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
            assert torch.equal(changed, image) == (name == "identity")


def test_autocast_leaves_a_strong_view_alone():
    """In bfloat16 a grid's places are off by pixels, and differently at each resolution; a sharpened image is rounded
    (one of sixteen at least is sharpened)."""
    given = images(16)
    expected, moved = affine_strong_view(given, generators(16))
    with torch.autocast("cpu", torch.bfloat16):
        found, again = affine_strong_view(given, generators(16))
        maps, _ = apply_affine(given[:, :1], moved)
    assert torch.equal(moved.matrix, again.matrix)
    assert torch.equal(maps, apply_affine(given[:, :1], moved)[0])
    assert torch.equal(found, expected)
