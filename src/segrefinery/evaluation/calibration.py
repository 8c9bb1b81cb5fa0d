"""Whether a network is right as often as it says: the expected calibration error (Guo et al., ICML 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


class Calibration:
    """Sums of confidences and of correct answers in equal bins of [0, 1]; its size does not depend on the pixels seen.

    Attributes:
        pixels, confidence, correct: one float64 number a bin, on the CPU.
    """

    def __init__(self, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        self.pixels, self.confidence, self.correct = torch.zeros(3, bins, dtype=torch.float64)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Take in pixels: their confidence in [0, 1], and whether the answer was right (bool, of the same shape).

        Raises:
            ValueError: shapes differ, or a confidence is not in [0, 1].
        """
        if confidence.shape != correct.shape:
            raise ValueError(
                f"confidence {tuple(confidence.shape)} and correct {tuple(correct.shape)} must have the same shape"
            )
        values, right = confidence.flatten().double().cpu(), correct.flatten().double().cpu()
        if not bool(((values >= 0) & (values <= 1 + 1e-6)).all()):
            raise ValueError("confidence must lie in [0, 1]")
        bins = len(self.pixels)
        place = (values * bins).long().clamp(max=bins - 1)
        self.pixels += torch.bincount(place, minlength=bins)
        self.confidence += torch.bincount(place, weights=values, minlength=bins)
        self.correct += torch.bincount(place, weights=right, minlength=bins)

    @property
    def error(self) -> float:
        """Mean over the pixels of |accuracy - mean confidence| of their bin; NaN if nothing was seen."""
        return float((self.correct - self.confidence).abs().sum() / self.pixels.sum())


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """``Calibration.error`` of one set of pixels: 0 = says exactly how often it is right, 1 = always sure and wrong."""
    counts = Calibration(bins)
    counts.update(confidence, correct)
    return counts.error
