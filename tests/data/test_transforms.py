import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as T

from segrefinery.core.randomness import generator
from segrefinery.data.transforms import (
    DataSettings,
    TrainTransform,
    denormalize,
    normalize,
    resize_for_evaluation,
    resize_image,
    resize_map,
)

PLAIN = {"flip": 0.0, "pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}


def place_image(height=40, width=60):
    """Every pixel names its row and column."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8).expand(height, width)
    return torch.stack([rows, columns, torch.zeros_like(rows)])


def gradient_image(height, width):
    """A ramp along each axis: what it shows at a place does not depend on the resolution."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    ramp = torch.stack([y[:, None].expand(height, width), x.expand(height, width), torch.zeros(height, width)])
    return ramp.mul(255).round().to(torch.uint8)


def test_a_plain_crop_is_a_window_of_the_image():
    transform = TrainTransform(DataSettings(crop=(16, 24), **PLAIN))
    image = place_image()
    label = (image[0].long() + image[1].long()) % 7
    corners = set()
    for seed in range(30):
        view = transform(image, label, generator(seed))
        top, left = (round(float(view.image[axis, 0, 0]) * 255) for axis in (0, 1))
        window = (..., slice(top, top + 16), slice(left, left + 24))
        assert torch.equal(view.image, image[window].float() / 255)
        assert torch.equal(view.label, label[window])
        corners.add((top, left))
    assert len(corners) > 20


def test_the_last_row_and_column_are_reached():
    transform = TrainTransform(DataSettings(crop=(3, 3), **PLAIN))
    image = place_image(4, 4)
    found = {tuple((transform(image, None, generator(seed)).image[:2, -1, -1] * 255).tolist()) for seed in range(40)}
    assert found == {(2.0, 2.0), (2.0, 3.0), (3.0, 2.0), (3.0, 3.0)}


@pytest.mark.parametrize("short_side", [80, 160, 228, 320])
def test_one_resize_of_the_window_shows_what_resizing_the_whole_image_shows(short_side):
    image = gradient_image(160, 240)
    size = (short_side, short_side * 240 // 160)
    whole = resize_image(image, size).float() / 255
    transform = TrainTransform(DataSettings(short_side=short_side, crop=(48, 64), **PLAIN))
    for seed in range(10):
        view = transform(image, None, generator(seed)).image
        # The ramps tell where the view lies, up to their steps; the resized image must show the same there.
        middle = [float(view[axis, 20:28, 28:36].mean()) * size[axis] for axis in (0, 1)]
        top, left = round(middle[0] - 24), round(middle[1] - 32)
        assert -1 <= top <= size[0] - 47
        assert -1 <= left <= size[1] - 63
        inside = view[:, 4:-4, 4:-4]
        window = whole[:, top + 4 : top + 44, left + 4 : left + 60]
        assert (inside - window).abs().max() < 1.0 / min(size) + 2 / 255


def test_a_crop_of_everything_equals_resize_then_crop():
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=generator(0))
    whole = resize_image(image, (32, 48)).float() / 255
    view = TrainTransform(DataSettings(short_side=32, crop=(32, 48), **PLAIN))(image, None, generator(1))
    assert torch.equal(view.image, whole)


@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0, 1.6])
def test_image_and_maps_stay_aligned_at_every_scale(scale):
    label = torch.zeros(64, 96, dtype=torch.int64)
    label[16:48, 32:64] = 1
    image = (label * 200).to(torch.uint8).expand(3, 64, 96)
    transform = TrainTransform(DataSettings(crop=(24, 40), scale=(scale, scale), **PLAIN | {"flip": 0.5}))
    for seed in range(10):
        view = transform(image, label, generator(seed), weight=label.float())
        apart = (view.image[0] * 255 / 200 - view.label).abs()
        assert (apart > 0.6).float().mean() < 0.005
        assert torch.equal(view.weight, (view.label == 1).float())


def test_scale_changes_how_much_of_the_image_is_seen():
    image = gradient_image(64, 96)
    spans = {}
    for scale in (0.5, 1.0, 2.0):
        view = TrainTransform(DataSettings(crop=(32, 32), scale=(scale, scale), **PLAIN))(image, None, generator(0))
        spans[scale] = float(view.image[0].max() - view.image[0].min()) * 64
    assert spans[0.5] == pytest.approx(63, abs=2)
    assert spans[1.0] == pytest.approx(31, abs=1)
    assert spans[2.0] == pytest.approx(15.5, abs=1)


def test_too_small_an_image_is_padded_with_nothing_to_learn():
    settings = DataSettings(crop=(32, 48), flip=0.0)
    image, label = place_image(20, 30), torch.ones(20, 30, dtype=torch.int64)
    view = TrainTransform(settings)(image, label, generator(0), weight=torch.ones(20, 30))
    assert view.image.shape == (3, 32, 48)
    padded = torch.ones(32, 48, dtype=torch.bool)
    padded[:20, :30] = False
    assert torch.equal(view.label == 255, padded)
    assert torch.equal(view.weight, (~padded).float())
    assert not view.image[:, padded].any()
    assert torch.equal(view.image[:, :20, :30], normalize(image))


def test_flip_turns_image_and_maps_together():
    image, label = place_image(8, 10), torch.arange(10).expand(8, 10)
    never, always = (DataSettings(crop=(8, 10), **PLAIN | {"flip": flip}) for flip in (0.0, 1.0))
    straight = TrainTransform(never)(image, label, generator(0), weight=label / 10, translated=255 - image)
    turned = TrainTransform(always)(image, label, generator(0), weight=label / 10, translated=255 - image)
    assert all(torch.equal(one.flip(-1), other) for one, other in zip(straight, turned, strict=True))


def test_the_generator_is_the_only_randomness():
    settings = DataSettings(short_side=32, crop=(24, 24), scale=(0.5, 1.5), photometric=0.3, blur=0.5)
    image, label = place_image(), torch.zeros(40, 60, dtype=torch.int64)
    before = torch.random.get_rng_state()
    one, again, other = (TrainTransform(settings)(image, label, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.image, again.image)
    assert not torch.equal(one.image, other.image)


def test_colors_change_the_image_only_if_asked():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator(0))
    plain = TrainTransform(DataSettings(crop=(16, 16), **PLAIN))(image, None, generator(0)).image
    jittered = TrainTransform(DataSettings(crop=(16, 16), photometric=0.4, **PLAIN))(image, None, generator(0)).image
    blurred = TrainTransform(DataSettings(crop=(16, 16), blur=1.0, **PLAIN))(image, None, generator(0)).image
    assert torch.equal(plain, image.float() / 255)
    assert not plain.allclose(jittered, atol=0.01)
    assert 0 <= float(jittered.min()) <= float(jittered.max()) <= 1
    assert blurred.std() < plain.std()
    assert blurred.mean() == pytest.approx(float(plain.mean()), abs=0.02)


def test_a_wanted_class_is_looked_for():
    label = torch.zeros(64, 64, dtype=torch.int64)
    label[:28, :28] = 3
    transform = TrainTransform(DataSettings(crop=(16, 16), rare_min_pixels=100, rare_crop_ratio=0.5))
    image = place_image(64, 64)
    pixels = {
        wanted: [int((transform(image, label, generator(seed), wanted).label == 3).sum()) for seed in range(60)]
        for wanted in (None, 3)
    }
    found = {wanted: sum(count > 50 for count in counts) for wanted, counts in pixels.items()}
    assert found[None] < 25
    assert found[3] > 40


def test_a_wanted_class_that_cannot_be_had_gives_the_best_crop_and_never_hangs():
    label = torch.zeros(32, 32, dtype=torch.int64)
    label[:4, :4] = 2
    transform = TrainTransform(DataSettings(crop=(16, 16), rare_min_pixels=10_000))
    image = place_image(32, 32)
    best = [int((transform(image, label, generator(seed), 2).label == 2).sum()) for seed in range(40)]
    some = [int((transform(image, label, generator(seed)).label == 2).sum()) for seed in range(40)]
    assert sum(best) > 2 * sum(some)
    assert transform(image, label, generator(0), wanted_class=4).label.shape == (16, 16)
    nothing = torch.full((32, 32), 255)
    assert (transform(image, nothing, generator(0), wanted_class=4).label == 255).all()


def test_a_crop_of_one_class_is_drawn_again():
    label = torch.zeros(64, 64, dtype=torch.int64)
    label[:32, :32] = 1
    image = place_image(64, 64)
    for limit, low, high in ((1.0, 0.3, 1.0), (0.75, 0.0, 0.15)):
        transform = TrainTransform(DataSettings(crop=(16, 16), max_class_share=limit))
        labels = [transform(image, label, generator(seed)).label for seed in range(60)]
        one_class = sum(int(each.float().mean() in (0.0, 1.0)) for each in labels) / 60
        assert low <= one_class <= high


def test_weights_as_bytes_are_shares_of_255():
    weight = torch.full((8, 8), 51, dtype=torch.uint8)
    view = TrainTransform(DataSettings(crop=(8, 8)))(place_image(8, 8), weight.long(), generator(0), weight=weight)
    assert view.weight.allclose(torch.tensor(0.2))


def test_a_map_of_another_size_is_named():
    with pytest.raises(ValueError, match="label is"):
        TrainTransform(DataSettings())(place_image(8, 8), torch.zeros(8, 9), generator(0))


def test_resize_for_evaluation_keeps_the_aspect():
    image = place_image(40, 60)
    assert resize_for_evaluation(image, DataSettings(short_side=20)).shape == (3, 20, 30)
    assert resize_for_evaluation(image.transpose(1, 2), DataSettings(short_side=20)).shape == (3, 30, 20)
    assert torch.equal(resize_for_evaluation(image, DataSettings()), normalize(image))


def test_resize_map_takes_the_pixel_under_the_centre():
    values = torch.arange(6)[None]
    assert resize_map(values, (1, 3)).tolist() == [[1, 3, 5]]
    assert resize_map(values, (1, 2)).tolist() == [[1, 4]]
    assert resize_map(values[:, :2], (2, 4)).tolist() == [[0, 0, 1, 1]] * 2
    for size in ((5, 7), (31, 64), (3, 2)):
        label = torch.randint(0, 99, (16, 24), generator=generator(size[0]))
        expected = T.resize(label[None].float(), list(size), T.InterpolationMode.NEAREST_EXACT)[0].long()
        assert torch.equal(resize_map(label, size), expected)


def test_normalize_and_back():
    image = torch.rand(2, 3, 4, 5)
    assert denormalize(normalize(image)).allclose(image, atol=1e-6)
    assert normalize(torch.full((3, 1, 1), 255, dtype=torch.uint8))[0].item() == pytest.approx((1 - 0.485) / 0.229)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": (0, 8)},
        {"scale": (1.5, 1.0)},
        {"scale": (0.0, 1.0)},
        {"flip": 1.5},
        {"photometric": -0.1},
        {"batch": 0},
        {"workers": -1},
        {"short_side": 0},
        {"pixel_std": (1.0, 0.0, 1.0)},
        {"pixel_std": (58.4, 57.1, 57.4)},
        {"pixel_mean": (123.7, 116.3, 103.5)},
        {"pixel_mean": (0.5, 0.5), "pixel_std": (0.5,)},
        {"crops": (8, 8)},
    ],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        DataSettings(**wrong)
