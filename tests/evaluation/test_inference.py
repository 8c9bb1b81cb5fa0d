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
from segrefinery.evaluation.inference import logits_at, predict_probs, window_starts
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
