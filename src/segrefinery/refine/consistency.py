"""A strong view of the target, of which the student must say what the teacher said of the weak one (ProDA, CPSL)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from segrefinery.core.precision import wide
from segrefinery.data.augment import AffineViewSettings, Warp, affine_strong_view, apply_affine
from segrefinery.models.segmenter import Prediction
from segrefinery.refine.base import Step


@dataclass
class StrongView:
    """What the student says of a strong view of the target batch, and how the weak view maps onto it.

    Attributes:
        prediction: the student's, with its graph.
        warp: where the strong view moved each image; None where it left the geometry alone.
    """

    prediction: Prediction
    warp: Warp | None

    def compare(self, loss: Callable[..., Tensor], weak: Tensor, strong: Tensor) -> Tensor:
        """``loss(weak, strong, mask)`` with the weak view's map moved as its image was, in float32 or better, over the
        pixels both show.

        Args:
            weak, strong: B x C x h x w logits of the weak view and of the strong one, on the network's grid.
        """
        if self.warp is None:
            return loss(weak, strong, None)
        moved, uncovered = apply_affine(wide(weak), self.warp, aligned=self.prediction.aligned)
        return loss(moved, strong, ~uncovered)


def look_at_strong_view(step: Step, image: Tensor, settings: AffineViewSettings | None) -> StrongView:
    """Show the student a strong view of images B x 3 x H x W: affine, or the stage's own photometric one for None."""
    if settings is not None:
        image, warp = affine_strong_view(image, step.generators[: len(image)], settings, *step.normalization)
        return StrongView(step.student(image), warp)
    return StrongView(step.student(step.strong(image)), None)
