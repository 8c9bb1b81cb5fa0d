import pytest
import torch
import torch.nn.functional as F

from segrefinery.core import pixelwise
from segrefinery.core.pixelwise import confidence_and_label, highest, mean_over_pixels, most_probable


@pytest.fixture(autouse=True)
def short_strips(monkeypatch):
    monkeypatch.setitem(pixelwise.STRIP, "cpu", 1)  # so many strips as there can be
    monkeypatch.setattr(pixelwise, "FEWEST_ROWS", 3)


def maps(*sizes, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, *size, generator=rng, dtype=dtype).requires_grad_() for size in sizes]


def product(a, b, pixels):
    return (a.softmax(dim=1) * b).sum(dim=1) * pixels


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(20, 24), (17, 31), (5, 6), (3, 24)])
def test_value_and_gradient_are_those_of_the_enlarged_maps(size, aligned):
    pixels = torch.rand(2, *size, generator=torch.Generator().manual_seed(1))
    found, expected = maps((5, 6), (4, 3)), maps((5, 6), (4, 3))
    mean = mean_over_pixels(product, found, [pixels], aligned)
    large = [F.interpolate(each, size, mode="bilinear", align_corners=aligned) for each in expected]
    dense = product(*large, pixels).mean()
    torch.testing.assert_close(mean, dense)
    (3 * mean).backward()
    (3 * dense).backward()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_map_that_wants_no_gradient_gets_none_and_without_gradients_there_is_no_graph():
    one, other = maps((5, 6), (4, 3))
    pixels = torch.ones(2, 10, 12)
    mean_over_pixels(product, [one, other.detach()], [pixels]).backward()
    assert one.grad is not None
    with torch.no_grad():
        assert not mean_over_pixels(product, [one, other], [pixels]).requires_grad
    with pytest.raises(ValueError, match="detach"):
        mean_over_pixels(product, [one, other], [pixels.requires_grad_()])


def test_reduced_precision_is_computed_in_float32():
    one, other = (each.detach().bfloat16().requires_grad_() for each in maps((5, 6), (4, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        mean = mean_over_pixels(product, [one, other], [torch.ones(2, 10, 12)])
    assert mean.dtype == torch.float32
    mean.backward()
    assert one.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(20, 24), (5, 6)])
def test_the_most_probable_class_is_that_of_the_enlarged_map(size, aligned):
    (probs,) = (each.softmax(dim=1) for each in maps((5, 6)))
    large = F.interpolate(probs, size, mode="bilinear", align_corners=aligned)
    assert torch.equal(most_probable(probs, size, aligned), large.argmax(dim=1))


def test_of_equal_classes_the_first_is_the_highest_and_without_a_number_it_is_still_a_class():
    values = torch.tensor([[1.0, 2.0, torch.nan], [3.0, 2.0, torch.nan], [3.0, 0.0, torch.nan]])[None, :, None]
    assert highest(values)[0, 0].tolist() == [1, 0, 2]


@pytest.mark.parametrize("shape", [(2, 19, 5, 7), (19, 5, 7), (3, 300, 2, 2), (1, 4, 4)])
def test_confidence_and_label_are_those_of_max(shape):
    probs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).softmax(dim=-3)
    confidence, label = confidence_and_label(probs)
    assert torch.equal(confidence, probs.max(dim=-3).values)
    assert torch.equal(label, probs.argmax(dim=-3))
    assert label.dtype == torch.int64
