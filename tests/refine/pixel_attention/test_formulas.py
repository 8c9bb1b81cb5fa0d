"""The blocked attention against the dense formula, its gradients, and the module around it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segrefinery.core.errors import SegRefineryError
from segrefinery.refine.pixel_attention.formulas import (
    attention_map,
    group_entropy,
    pixel_attention,
    similarity_map,
)
from segrefinery.refine.pixel_attention.network import AttentionModule


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(logits: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Equations (4) to (7) as they are written."""
    o, q = logits.flatten(2).mT, embedding.flatten(2).mT
    norm = q.norm(dim=2, keepdim=True) + 1e-12
    attention = ((q @ q.mT) / (norm @ norm.mT)).relu()
    attention = attention / attention.sum(dim=2, keepdim=True)
    return (attention @ o).mT.unflatten(2, logits.shape[-2:])


@pytest.mark.parametrize("block", [1, 7, 12, 1000, None])
@pytest.mark.parametrize(("channels", "width"), [(1, 1), (2, 3), (19, 19)])
def test_values_and_gradients_are_those_of_the_dense_formula(block, channels, width):
    logits, embedding = draw(2, channels, 3, 4), draw(2, width, 3, 4, seed=1)
    upstream = draw(2, channels, 3, 4, seed=2)
    results = []
    for function in (dense, lambda o, q: pixel_attention(o, q, block=block)):
        o, q = logits.clone().requires_grad_(), embedding.clone().requires_grad_()
        attended = function(o, q)
        results.append((attended, *torch.autograd.grad(attended, (o, q), upstream)))
    for expected, actual in zip(*results):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_by_hand():
    # Pixels 0 and 1 point the same way, pixel 2 is orthogonal to both, pixel 3 opposes pixel 2.
    embedding = torch.tensor([[1.0, 5.0, 0.0, 0.0], [0.0, 0.0, 2.0, -1.0]]).view(1, 2, 2, 2)
    logits = torch.tensor([1.0, 3.0, 7.0, 9.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(
        pixel_attention(logits, embedding).flatten(), torch.tensor([2.0, 2.0, 7.0, 9.0]), atol=1e-6, rtol=0
    )


def test_gradcheck():
    logits, embedding = draw(2, 2, 2, 3, dtype=torch.float64), draw(2, 3, 2, 3, seed=1, dtype=torch.float64)
    inputs = (logits.requires_grad_(), embedding.requires_grad_())
    assert torch.autograd.gradcheck(lambda o, q: pixel_attention(o, q, block=4), inputs)


def test_gradient_when_the_logits_are_their_own_embedding_and_when_one_is_frozen():
    own = draw(1, 3, 2, 5).requires_grad_()
    (actual,) = torch.autograd.grad(pixel_attention(own, own, block=3).square().sum(), own)
    (expected,) = torch.autograd.grad(dense(own, own).square().sum(), own)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    embedding = draw(1, 3, 2, 5, seed=1)
    (actual,) = torch.autograd.grad(pixel_attention(own, embedding).square().sum(), own)
    (expected,) = torch.autograd.grad(dense(own, embedding).square().sum(), own)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_rows_are_averages():
    logits = torch.full((1, 2, 4, 5), 3.0)
    torch.testing.assert_close(pixel_attention(logits, draw(1, 6, 4, 5)), logits)


def test_all_zero_rows_stay_finite():
    logits, embedding = draw(1, 3, 2, 3).requires_grad_(), draw(1, 4, 2, 3, seed=1)
    embedding[..., 0, 1] = 0
    embedding.requires_grad_()
    attended = pixel_attention(logits, embedding)
    attended.sum().backward()
    assert attended[..., 0, 1].eq(0).all()
    for tensor in (attended, logits.grad, embedding.grad):
        assert tensor is not None
        assert tensor.isfinite().all()


def test_one_position_attends_to_itself():
    logits = draw(2, 4, 1, 1)
    torch.testing.assert_close(pixel_attention(logits, draw(2, 3, 1, 1, seed=1)), logits)


def test_autocast_changes_nothing():
    logits, embedding = draw(1, 5, 4, 4).requires_grad_(), draw(1, 5, 4, 4, seed=1).requires_grad_()
    expected = pixel_attention(logits, embedding)
    wanted = torch.autograd.grad(expected.square().sum(), (logits, embedding))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = pixel_attention(logits, embedding)
        got = torch.autograd.grad(actual.square().sum(), (logits, embedding))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)
    torch.testing.assert_close(got, wanted, atol=0, rtol=0)
    assert pixel_attention(logits.bfloat16(), embedding.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_input_is_named(bad):
    logits = draw(1, 2, 2, 2)
    logits[0, 0, 0, 0] = bad
    with pytest.raises(SegRefineryError, match="the logits hold NaN or infinity"):
        pixel_attention(logits, draw(1, 2, 2, 2))
    with pytest.raises(ValueError, match="the embedding hold"):
        pixel_attention(draw(1, 2, 2, 2), logits)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[1, 2, 2, 2\] and \[1, 2, 2, 3\]"):
        pixel_attention(draw(1, 2, 2, 2), draw(1, 2, 2, 3))
    with pytest.raises(ValueError, match="block"):
        pixel_attention(draw(1, 2, 2, 2), draw(1, 2, 2, 2), block=0)


def test_attended_logits_added_raise_the_accuracy_of_noisy_logits():
    # With classes of unequal size, as streets have them; with equal ones there is no common opinion to learn from.
    rng = torch.Generator().manual_seed(0)
    label = torch.multinomial(1 / torch.arange(1.0, 9.0), 24 * 24, replacement=True, generator=rng).view(1, 24, 24)
    noisy = 2 * F.one_hot(label, 8).permute(0, 3, 1, 2) + draw(1, 8, 24, 24)
    together = noisy + pixel_attention(noisy, noisy)

    def accuracy(logits: torch.Tensor) -> float:
        return (logits.argmax(1) == label).float().mean().item()

    assert accuracy(together) > accuracy(noisy) + 0.01


@pytest.mark.parametrize(("kernel", "width"), [(0, None), (1, None), (1, 7), (3, 4), (3, 2)])
def test_the_module_starts_near_a_map_whose_channels_have_mean_zero(kernel, width):
    torch.manual_seed(0)
    module = AttentionModule(4, kernel, width)
    maps = draw(1, 4, 5, 6)
    embedded = module.embed(maps)
    shared = min(4, width or 4)
    expected = (maps - maps.mean(dim=1, keepdim=True) if kernel else maps)[:, :shared]
    torch.testing.assert_close(embedded[:, :shared], expected, atol=0.5, rtol=0)
    assert embedded.shape == (1, width or 4, 5, 6)
    assert module(maps).shape == maps.shape
    assert bool(list(module.parameters())) == bool(kernel)


def test_similarity_of_every_pixel_to_one():
    maps = torch.tensor([[1.0, 2.0, -1.0], [0.0, 2.0, 0.0]]).view(1, 2, 1, 3)
    torch.testing.assert_close(similarity_map(maps, (0, 0)), torch.tensor([[[1.0, 0.5**0.5, 0.0]]]))
    before, after = attention_map(maps, maps, (0, 0))
    torch.testing.assert_close(before, similarity_map(maps, (0, 0)))
    torch.testing.assert_close(after, similarity_map(maps + dense(maps, maps), (0, 0)))


def test_entropy_of_a_group():
    probs = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]]).view(1, 2, 1, 3)
    half = group_entropy(probs, torch.tensor([[[True, False, True]]]))
    torch.testing.assert_close(half, torch.tensor(2.0).log() / 2)
    assert group_entropy(probs, torch.zeros(1, 1, 3, dtype=torch.bool)).isnan()
