"""The two-dimensional amplitude spectrum: style lives in the low frequencies, structure in the phase."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def swap_low_frequency_amplitude(content: Tensor, style: Tensor, fraction: float) -> Tensor:
    """``content`` with the low-frequency amplitude of ``style``, channel by channel; the phase of the content is kept.

    The amplitude is replaced in the centred square of half-width b = floor(min(H, W) * fraction): rows and columns
    c-b to c+b of the shifted spectrum, clipped to the spectrum. With b = 0 only the mean's magnitude changes hands.
    Used on images (FDA: Yang & Soatto, CVPR 2020, eq. 3) and on class logits (PRN: Zhao et al., WACV 2024, section
    3.3).

    Args:
        content, style: real tensors of one shape, B x C x H x W (any leading dimensions will do), any H and W.
        fraction: in [0, 1], of the shorter side; from 0.5 on its whole length is swapped.

    Returns:
        A tensor of the content's shape, in float32 (float64 for float64 content).

    Raises:
        ValueError: the shapes differ, there are fewer than two dimensions, or ``fraction`` is outside [0, 1].
    """
    if content.shape != style.shape or content.ndim < 2:
        raise ValueError(
            f"content and style need one shape ... x H x W, got {list(content.shape)}, {list(style.shape)}"
        )
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    dtype = torch.promote_types(content.dtype, torch.float32)
    content, style = content.to(dtype), style.to(dtype)
    if not content.numel():
        return content.clone()

    height, width = content.shape[-2:]
    half = math.floor(min(height, width) * fraction)
    rows = torch.fft.fftfreq(height, 1.0 / height, device=content.device).abs().round() <= half
    columns = torch.fft.rfftfreq(width, 1.0 / width, device=content.device).round() <= half
    low = rows[:, None] & columns[None, :]

    # Both inputs are real and the square is symmetric, so half of the spectrum says it all and the result is real.
    spectrum = torch.fft.rfft2(content)
    phase = torch.sgn(spectrum)
    phase = torch.where(phase == 0, torch.ones_like(phase), phase)  # a bin without content has phase 0
    swapped = torch.where(low, torch.fft.rfft2(style).abs() * phase, spectrum)
    return torch.fft.irfft2(swapped, s=(height, width))
