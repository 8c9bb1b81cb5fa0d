"""What a recipe may say of SAM; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from segrefinery.core.settings import PAPER, REBUILT
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.pixel_attention.refiner import PixelAttention


class PixelAttentionSettings(RefinerSettings):
    """A frozen attention module teaches the student which pixels belong together (SAM)."""

    train: bool = False
    """Trains the module, in a supervised stage whose own cross-entropy the recipe sets to 0. In other stages it is
    frozen, and teaches with what it learned in that one."""
    kernel: Literal[0, 1, 3] = 1
    """Sets the side of the convolution before the similarity; 0 = none (the paper's "No Conv"). The paper does not
    state it."""
    width: int | None = Field(None, gt=0)
    """Sets the channels of the embedding; by default those of the attended map."""
    train_on: Annotated[Literal["skip", "plain", "both"], PAPER] = "skip"
    """Judges by the source labels, while the module trains, a map plus its attended form (``skip``, the paper), its
    attended form (``plain``, the paper's "No skip"), or each of the two (``both``, ours): then what eq. 9 pulls to is
    itself a prediction."""
    target: Annotated[Literal["skip", "plain"], PAPER] = "skip"
    """Pulls a map to itself plus its attended form (``skip``, eq. 8), or only to that (``plain``, eq. 9)."""
    domains: Annotated[Literal["both", "target"], PAPER] = "both"
    """Pulls on source and target (eq. 10), or on the target only (eq. 11)."""
    form: Annotated[Literal["l1", "kl", "cosine"], REBUILT] = "l1"
    """Measures the distance of two maps by l1, by KL of their softmaxes, or by cosine."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Divides l1 by the pixels, summing over channels, or by pixels and channels (1/C of that)."""
    layers: Annotated[Literal["logits", "features", "both"], PAPER] = "logits"
    """Chooses the maps that attend."""
    weight: Annotated[float, PAPER] = Field(0.1, ge=0)
    """Weighs the loss: 0.1 (DeepLab), 0.001 (FCN-8s), 0.005 beside ProDA."""

    @property
    def only_adds_losses(self) -> bool:
        return True

    @property
    def teaches_first(self) -> bool:
        return self.train

    @property
    def must_be_taught(self) -> bool:
        return not self.train and self.kernel > 0

    @property
    def needs_source(self) -> bool:
        return self.train or self.domains == "both"

    def build(self, segmenter: Segmenter, space: LabelSpace | None = None) -> PixelAttention:
        from segrefinery.refine.pixel_attention.refiner import PixelAttention

        return PixelAttention(self, segmenter)
