"""A look: bounded, always the same, blind to labels."""

import pytest
import torch
from torch import nn

from segrefinery.data.transforms import DataSettings
from segrefinery.evaluation.trust import Observation, look, sample_images, sample_pixels
from segrefinery.models.segmenter import Prediction
from toys import ToySegmenter

DATA = DataSettings(short_side=32, crop=(32, 48))


class Pictures:
    """Random images without labels, of two sizes."""

    def __init__(self, count=4):
        self.count = count

    def __len__(self):
        return self.count

    def name(self, index):
        return f"picture/{index}"

    def image(self, index):
        size = (32, 48) if index % 2 else (40, 48)
        return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))


class Constant(nn.Module):
    """Says class 1 whatever it sees."""

    def __init__(self, classes=5):
        super().__init__()
        self.bias = nn.Parameter(torch.eye(classes)[1] * 9)

    def forward(self, image):
        logits = self.bias[None, :, None, None].expand(len(image), -1, image.shape[-2] // 4, image.shape[-1] // 4)
        return Prediction(logits, logits)


def toy(seed=0):
    torch.manual_seed(seed)
    return ToySegmenter()


def test_a_look_is_the_same_whatever_the_random_state():
    first = look(toy(), Pictures(), DATA, 5, pixels=50)
    torch.manual_seed(99)
    second = look(toy(), Pictures(), DATA, 5, pixels=50)
    assert torch.equal(first.probs, second.probs)
    assert all(torch.equal(first.views[name], second.views[name]) for name in first.views)


def test_a_look_does_not_touch_the_random_state_or_the_mode():
    network = toy().train()
    before = torch.get_rng_state()
    look(network, Pictures(2), DATA, 5, pixels=20)
    assert network.training
    assert torch.equal(before, torch.get_rng_state())


def test_shapes_and_counts():
    seen = look(toy(), Pictures(), DATA, 5, pixels=50)
    assert seen.probs.shape == (4, 50, 5)
    assert seen.stable.shape == (4, 50)
    assert set(seen.views) == {"photometric", "flip", "scale", "mix"}
    assert all(counts.sum((1, 2)).tolist() == [50] * 4 for counts in seen.views.values())
    assert float(seen.shares.sum()) == pytest.approx(1)


def test_a_constant_model_is_stable_under_everything():
    seen = look(Constant(), Pictures(), DATA, 5, pixels=30)
    assert bool(seen.stable.all())
    assert all(int(counts[:, 1, 1].sum()) == 4 * 30 for counts in seen.views.values())
    assert seen.shares.tolist() == [0, 1, 0, 0, 0]


def test_windows_change_little_for_a_local_network():
    whole = look(toy(), Pictures(2), DATA, 5, pixels=100)
    one_window = look(toy(), Pictures(2), DATA, 5, window=(64, 64), pixels=100)
    windows = look(toy(), Pictures(2), DATA, 5, window=(24, 24), pixels=100)
    assert torch.equal(whole.probs, one_window.probs)
    assert not torch.equal(whole.probs, windows.probs)
    assert float((whole.probs - windows.probs).abs().mean()) < 0.02


def test_the_same_places_at_every_resolution():
    small, large = sample_pixels("a", (10, 20), 500), sample_pixels("a", (100, 200), 500)
    assert torch.equal(small // 20, large // 200 // 10)
    assert torch.equal(small % 20, large % 200 // 10)
    assert not torch.equal(small, sample_pixels("b", (10, 20), 500))
    assert int(large.max()) < 100 * 200


def test_images_are_drawn_once_and_for_all():
    assert sample_images(Pictures(100), 8) == sample_images(Pictures(100), 8)
    assert len(set(sample_images(Pictures(100), 8))) == 8
    assert sample_images(Pictures(3), 8) == [0, 1, 2]


def test_an_observation_survives_the_disk(tmp_path):
    seen = look(toy(), Pictures(), DATA, 5, pixels=20)
    seen.save(tmp_path / "trust" / "a.npz")
    again = Observation.load(tmp_path / "trust" / "a.npz")
    assert again.names == seen.names
    assert torch.equal(again.probs, seen.probs)
    assert torch.equal(again.views["mix"], seen.views["mix"])
    assert [path.name for path in (tmp_path / "trust").iterdir()] == ["a.npz"]
