"""The amplitude swap against a literal reading of its definition, and the bad inputs it names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segrefinery.spectrum import swap_low_frequency_amplitude


def literal(content: torch.Tensor, style: torch.Tensor, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Shift, replace the square, shift back: real part and the imaginary part that is dropped."""
    a, b = np.fft.fft2(content.double().numpy()), np.fft.fft2(style.double().numpy())
    amplitude = np.fft.fftshift(np.abs(a), axes=(-2, -1))
    other = np.fft.fftshift(np.abs(b), axes=(-2, -1))
    height, width = content.shape[-2:]
    half, row, column = math.floor(min(height, width) * fraction), height // 2, width // 2
    square = np.s_[..., max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
    amplitude[square] = other[square]
    result = np.fft.ifft2(np.fft.ifftshift(amplitude, axes=(-2, -1)) * np.exp(1j * np.angle(a)))
    return result.real, result.imag


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(16, 24), (15, 24), (24, 15), (7, 9), (1, 5), (1, 1)])
@pytest.mark.parametrize("fraction", [0, 0.01, 0.05, 0.2, 0.34, 0.5, 0.7, 1])
def test_equals_the_literal_definition(size, fraction):
    content, style = draw(2, 3, *size), draw(2, 3, *size, seed=1)
    real, imaginary = literal(content, style, fraction)
    swapped = swap_low_frequency_amplitude(content, style, fraction)
    assert swapped.dtype == torch.float32
    np.testing.assert_allclose(swapped.numpy(), real, atol=1e-5)
    np.testing.assert_allclose(imaginary, 0, atol=1e-12)


def test_phase_stays_and_amplitude_moves():
    content, style = draw(1, 2, 17, 20).double(), draw(1, 2, 17, 20, seed=1).double()
    before, after, wanted = (
        torch.fft.fft2(x) for x in (content, swap_low_frequency_amplitude(content, style, 0.2), style)
    )
    torch.testing.assert_close(after / after.abs(), before / before.abs())
    low = (slice(None), slice(None), slice(0, 4), slice(0, 4))  # b = 3
    torch.testing.assert_close(after[low].abs(), wanted[low].abs())
    torch.testing.assert_close(after[..., 4:-3, :], before[..., 4:-3, :])


@pytest.mark.parametrize("fraction", [0, 0.01])
def test_the_smallest_square_is_the_mean(fraction):
    content, style = draw(1, 1, 8, 8) - 1, draw(1, 1, 8, 8, seed=1) + 3
    small = swap_low_frequency_amplitude(content, style, fraction)
    # The mean takes the magnitude of the style's and keeps the content's sign; all else stays.
    torch.testing.assert_close(small.mean(), -style.mean())
    torch.testing.assert_close(small - small.mean(), content - content.mean())


def test_a_constant_content_stays_finite():
    swapped = swap_low_frequency_amplitude(torch.zeros(1, 1, 6, 6), draw(1, 1, 6, 6), 0.3)
    assert swapped.isfinite().all()
    torch.testing.assert_close(torch.fft.fft2(swapped)[0, 0, 0, 0].real, draw(1, 1, 6, 6).sum().abs())


def test_half_precision_is_computed_in_float32():
    content, style = draw(1, 1, 9, 9).bfloat16(), draw(1, 1, 9, 9, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        swapped = swap_low_frequency_amplitude(content, style, 0.2)
    torch.testing.assert_close(swapped, swap_low_frequency_amplitude(content.float(), style.float(), 0.2))


@pytest.mark.parametrize("fraction", [-0.1, 1.01, math.nan])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="fraction"):
        swap_low_frequency_amplitude(draw(1, 1, 4, 4), draw(1, 1, 4, 4), fraction)


def test_different_sizes_are_named():
    with pytest.raises(ValueError, match=r"\[1, 2, 4, 4\], \[1, 2, 4, 5\]"):
        swap_low_frequency_amplitude(draw(1, 2, 4, 4), draw(1, 2, 4, 5), 0.1)
