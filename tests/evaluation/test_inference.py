"""From an image to probabilities: whole and by windows, and what is said when memory runs out."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from segrefinery.core.errors import OutOfMemory
from segrefinery.data.transforms import DataSettings
from segrefinery.evaluation.inference import logits_at, predict_probs
from segrefinery.evaluation.windows import shares, window_starts
from segrefinery.models.segmenter import Prediction

DATA = DataSettings(short_side=32, crop=(32, 32))


class Pointwise(nn.Module):
    """Every pixel by itself, so that windows must not change anything."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, image):
        return Prediction(self.layer(image), image)


class Greedy(Pointwise):
    def forward(self, image):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte\nmore")


def image():
    return torch.randint(0, 256, (3, 32, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_windows_agree_with_the_whole_where_a_network_sees_single_pixels():
    network = Pointwise().eval()
    whole = predict_probs(network, image(), DATA)
    assert whole.shape == (4, 32, 80)
    assert torch.allclose(whole.sum(dim=0), torch.ones(32, 80), atol=1e-5)
    assert torch.allclose(predict_probs(network, image(), DATA, window=(16, 24)), whole, atol=1e-5)


@pytest.mark.parametrize(("length", "window"), [(80, 24), (32, 16), (7, 7), (5, 9), (100, 1), (33, 32)])
def test_windows_cover_everything_with_strides_of_at_most_half(length, window):
    starts = window_starts(length, window)
    assert starts[0] == 0
    assert starts[-1] == max(length - window, 0)
    assert all(0 < b - a <= max(window // 2, 1) for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("length", "window", "multiple"), [(1000, 128, 32), (515, 128, 16), (400, 384, 32), (97, 40, 8)]
)
def test_windows_start_where_cells_do_and_end_at_the_border(length, window, multiple):
    starts = window_starts(length, window, multiple)
    assert all(start % multiple == 0 for start in starts)
    assert starts[-1] < length <= starts[-1] + window < length + multiple
    assert all(b - a <= window // 2 for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("length", "window", "out", "multiple"),
    [(80, 24, 80, 1), (80, 24, 160, 1), (80, 24, 7, 1), (515, 128, 515, 16), (9, 16, 9, 1), (100, 1, 3, 1)],
)  # fmt: skip
def test_the_weights_of_a_pixel_add_up_to_one(length, window, out, multiple):
    total = torch.zeros(out)
    for share in shares(length, window, out, multiple):
        assert share.place[0] <= share.begin <= share.finish <= share.leave <= share.place[1]
        total[share.begin : share.leave] += share.weights
    torch.testing.assert_close(total, torch.ones(out))


class Local(nn.Module):
    """Sees no further than 12 pixels, in cells of 4."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        convs = [nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]
        self.layers = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())), nn.Conv2d(8, 4, 1))

    def forward(self, image):
        return Prediction(self.layers(image), image)


@pytest.mark.parametrize("window", [(96, 96), (96, 128), (128, 1000)])
def test_windows_larger_than_what_a_network_sees_give_the_labels_of_the_whole(window, monkeypatch):
    monkeypatch.setattr("segrefinery.evaluation.inference.stride_of", lambda network: 4)
    big = torch.randint(0, 256, (3, 200, 332), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network, settings = Local().eval(), DataSettings(crop=(32, 32))
    whole = predict_probs(network, big, settings)
    by_windows = predict_probs(network, big, settings, window)
    torch.testing.assert_close(by_windows, whole, atol=1e-5, rtol=0)
    assert torch.equal(by_windows.argmax(dim=0), whole.argmax(dim=0))


class Everywhere(Pointwise):
    """Decodes at any resolution, like IR2F: here, what is up-sampled before the layer."""

    def predict(self, image, size):
        return self.layer(nn.functional.interpolate(image, size, mode="nearest"))


def test_windows_are_decoded_at_the_size_that_is_asked_for():
    network = Everywhere().eval()
    size = (64, 160)
    whole = predict_probs(network, image(), DATA, out=size)
    by_windows = predict_probs(network, image(), DATA, window=(16, 32), out=size)
    torch.testing.assert_close(by_windows, whole)
    coarse = nn.functional.interpolate(predict_probs(network, image(), DATA)[None], size, mode="bilinear")[0]
    assert not torch.allclose(whole, coarse, atol=1e-3)  # which is what windows up-sampled afterwards would give
    assert logits_at(network, torch.zeros(1, 3, 8, 8), (5, 7)).shape == (1, 4, 5, 7)


def test_running_out_of_memory_names_the_image_and_the_remedy():
    with pytest.raises(OutOfMemory, match=r"image of 80 x 32: out of memory.*1 byte\).*--window") as caught:
        predict_probs(Greedy().eval(), image(), DATA)
    assert "more" not in str(caught.value)


def test_windows_keep_their_promise_of_memory():
    """Four bytes a pixel and class; beside them the image in floats, and what a row of windows needs."""
    side, classes = 2048, 16
    code = f"""
import resource, torch
from toys import ToySegmenter
from segrefinery.data.transforms import DataSettings
from segrefinery.evaluation.inference import predict_probs
network = ToySegmenter({classes}).eval()
settings = DataSettings(crop=(64, 64), batch=1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
predict_probs(network, torch.zeros(3, 256, 256, dtype=torch.uint8), settings, (128, 128))
image = torch.zeros(3, {side}, {side}, dtype=torch.uint8)
before = peak()
assert predict_probs(network, image, settings, (256, 256)).shape == ({classes}, {side}, {side})
print(peak() - before)
"""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < side**2 * (4 * classes + 40)
