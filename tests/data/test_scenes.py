"""Street scenes: exact masks, the same pixels everywhere, the looks, the long tail."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.scenes import SceneDataset
from segrefinery.data.scenes.canvas import NEARNESS, SOLID, Camera, Canvas, paint
from segrefinery.data.scenes.classes import CLASSES, SKY
from segrefinery.data.scenes.dice import Dice
from segrefinery.data.scenes.layout import make_world
from segrefinery.data.scenes.looks import LOOKS
from segrefinery.data.scenes.textures import bloom, clamp, decay, double, halve, smooth
from segrefinery.labels import LabelSpace

SMALL = (32, 64)


def shares(label: torch.Tensor) -> torch.Tensor:
    return torch.bincount(label.flatten(), minlength=len(CLASSES)) / label.numel()


def digest(scenes: SceneDataset, index: int) -> str:
    parts = scenes.image(index).numpy().tobytes() + scenes.label(index).to(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(parts, digest_size=8).hexdigest()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", [(97, 161), (8, 8), (33, 20), (64, 128)])
def test_any_size(look: str, size: tuple[int, int]):
    scenes = SceneDataset(look, size=size)
    image, label = scenes.image(3), scenes.label(3)
    assert image.shape == (3, *size)
    assert image.dtype == torch.uint8
    assert label.shape == size
    assert label.dtype == torch.int64
    assert int(label.min()) >= 0
    assert int(label.max()) < scenes.space.num_classes


def test_it_is_a_labelled_data_set():
    scenes = SceneDataset("fog", "test", count=5)
    assert len(scenes) == 5
    assert scenes.has_labels
    assert isinstance(scenes.space, LabelSpace)
    assert scenes.space.classes == CLASSES
    assert scenes.reference == "scenes:fog@test"
    assert len({scenes.name(i) for i in range(5)}) == 5
    with pytest.raises(IndexError):
        scenes.image(5)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        ("day", "6f60666791feb958f0e22164ca7ea6eb"),
        ("night", "f05bae3fa5992587edee9055ce450f3a"),
        ("fog", "d73444cc9811a5fd05c70ad18735ba00"),
        ("rain", "f56890311f149c40d60735d70c9f4833"),
    ],
)
def test_same_seed_same_pixels_on_any_machine(look: str, expected: str):
    scenes = SceneDataset(look, size=(64, 128))
    assert digest(scenes, 0) + digest(scenes, 1) == expected


def test_order_of_access_and_cache_do_not_matter():
    first, second = SceneDataset("rain", size=SMALL), SceneDataset("rain", size=SMALL)
    forward = [digest(first, i) for i in range(7)]
    assert [digest(second, i) for i in reversed(range(7))] == forward[::-1]
    assert torch.equal(first.image(0), first.image(0))


def test_looks_splits_seeds_and_indices_show_different_worlds():
    variants = [
        SceneDataset("day", size=SMALL),
        SceneDataset("night", size=SMALL),
        SceneDataset("day", "test", size=SMALL),
        SceneDataset("day", size=SMALL, seed=1),
    ]
    labels = [v.label(i).numpy().tobytes() for v in variants for i in (0, 1)]
    assert len(set(labels)) == len(labels)


def test_paired_looks_show_one_world():
    sets = [SceneDataset(look, size=SMALL, paired=True) for look in LOOKS]
    for index in range(3):
        assert all(torch.equal(s.label(index), sets[0].label(index)) for s in sets)
        images = [s.image(index) for s in sets]
        assert all(not torch.equal(image, images[0]) for image in images[1:])


def test_a_scene_does_not_depend_on_the_count():
    assert digest(SceneDataset("day", count=2, size=SMALL), 1) == digest(SceneDataset("day", count=9, size=SMALL), 1)


def test_two_sizes_show_the_same_world():
    small, large = SceneDataset("day", size=(64, 128)), SceneDataset("day", size=(128, 256))
    for index in range(8):
        difference = (shares(small.label(index)) - shares(large.label(index))).abs()
        assert float(difference.max()) < 0.02
        coarse = large.label(index)[1::2, 1::2]
        assert float((coarse == small.label(index)).float().mean()) > 0.9


def test_all_classes_occur_with_a_long_tail():
    scenes = SceneDataset("day", count=200, size=(64, 128))
    mean = sum(shares(scenes.label(index)) for index in range(200)) / 200
    share = dict(zip(CLASSES, mean.tolist()))  # type: ignore[union-attr]
    assert all(value > 0 for value in share.values())
    assert 0.25 < share["road"] < 0.45
    assert 0.1 < share["building"] < 0.3
    assert 0.08 < share["sky"] < 0.25
    assert 0.03 < share["car"] < 0.1
    assert all(share[name] < 0.015 for name in ("pole", "traffic light", "traffic sign", "person", "rider", "bicycle"))


def test_looks_differ_as_such_images_do():
    light, contrast = {}, {}
    for look in LOOKS:
        scenes = SceneDataset(look, size=(64, 128), paired=True)
        images = torch.stack([scenes.image(i) for i in range(6)]).float()
        light[look], contrast[look] = float(images.mean()), float(images.std(dim=(2, 3)).mean())
    assert light["night"] < 0.7 * light["day"]
    assert light["rain"] < light["day"]
    assert contrast["fog"] < 0.6 * contrast["day"]


def test_fog_hides_what_is_far():
    world = make_world(5)
    canvas = world.draw(64, 128)
    fog, day = (LOOKS[look](world, canvas, Dice(1)) for look in ("fog", "day"))
    depth = canvas.planes[SOLID] / np.maximum(canvas.planes[NEARNESS], 1e-3)
    solid = canvas.planes[SOLID] > 0.99
    near, far = solid & (depth < 15), solid & (depth > 80)
    assert fog[:, far].std() / day[:, far].std() < 0.7 * fog[:, near].std() / day[:, near].std()


def test_looks_leave_the_world_as_it_is():
    world = make_world(6)
    canvas = world.draw(32, 64)
    before = canvas.planes.copy(), canvas.label.copy()
    for look in LOOKS.values():
        look(world, canvas, Dice(1))
    assert np.array_equal(before[0], canvas.planes)
    assert np.array_equal(before[1], canvas.label)


def test_masks_follow_the_drawing():
    """Half coverage decides, and what is drawn later hides what is drawn earlier."""
    canvas = Canvas(Camera(1.0, 0.5, 1.5), 10, 20, SKY)
    canvas.rectangle(2.4, 6.0, 3.0, 8.0, paint((1, 1, 1), 5.0), 1)
    assert (canvas.label == 1).sum() == 4 * 5  # pixel 2 is covered by 0.6
    assert canvas.planes[SOLID, 4, 2] == pytest.approx(0.6)
    canvas.rectangle(4.5, 9.0, 0.0, 10.0, paint((0, 0, 0), 2.0), 2)
    assert (canvas.label[3:8, 2:4] == 1).all()
    assert canvas.label[5, 4] == 1  # covered by exactly half: stays
    assert (canvas.label[:, 5:9] == 2).all()
    assert canvas.planes[NEARNESS, 5, 7] == pytest.approx(0.5)


def test_polygon_and_ellipse_cover_their_area():
    canvas = Canvas(Camera(1.0, 0.5, 1.5), 60, 60, SKY)
    canvas.polygon([(5, 5), (45, 5), (5, 45)], paint((1, 1, 1), 1.0), 1)
    assert (canvas.label == 1).sum() == pytest.approx(800, rel=0.05)
    canvas = Canvas(Camera(1.0, 0.5, 1.5), 60, 60, SKY)
    canvas.ellipse(30, 30, 20, 10, paint((1, 1, 1), 1.0), 1)
    assert (canvas.label == 1).sum() == pytest.approx(3.14159 * 200, rel=0.05)


def test_perspective():
    canvas = Canvas(Camera(focal=1.0, horizon=0.5, height=1.5), 100, 200, SKY)
    assert canvas.project(0, 1.5, 7) == (100, 50)  # at the camera's height: on the horizon
    assert canvas.project(2, 0, 10) == pytest.approx((120, 65))


def test_filters():
    flat = np.full((3, 7, 9), 0.5, np.float32)
    assert np.allclose(smooth(flat), 0.5)
    assert halve(flat).shape == (3, 4, 5)
    assert double(halve(flat), 7, 9).shape == flat.shape
    assert np.allclose(bloom(flat, (0.25, 0.25, 0.5)), 0.5)
    x = np.linspace(0, 3, 7, dtype=np.float32)
    assert np.abs(decay(x) - np.exp(-x)).max() < 0.08
    assert clamp(x).max() == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"look": "dusk"}, "day, night, fog, rain"),
        ({"look": "day", "split": "val"}, "train, test"),
        ({"look": "day", "count": 0}, "ask for 1 to"),
        ({"look": "day", "size": (4, 128)}, "8 x 8"),
    ],
)
def test_mistakes_are_named(arguments: dict, words: str):
    with pytest.raises(SegRefineryError, match=words):
        SceneDataset(**arguments)
