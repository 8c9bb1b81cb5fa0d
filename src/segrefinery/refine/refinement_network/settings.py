"""What a recipe may say of PRN; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from segrefinery.core.settings import BUDGET, PAPER, REBUILT
from segrefinery.models.settings import Norm
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.refinement_network.refiner import RefinementNetwork


Perturbation = Literal["fourier", "regions", "class_dropout", "boundary_jitter", "none"]


class RefinementNetworkSettings(RefinerSettings):
    """A network that repairs pseudo-labels and masks the ones it distrusts (PRN)."""

    refine: Annotated[bool, PAPER] = True
    """Replaces the labels by the refined ones."""
    mask: Annotated[bool, PAPER] = True
    """Gives no weight to pixels the noise head marks."""
    perturbation: Annotated[Perturbation, PAPER] = "fourier"
    """Spoils source logits for training; all ways but ``fourier`` are ours."""
    strength: Annotated[tuple[float, float], PAPER] = (0.05, 0.2)
    """Draws the strength of the perturbation from this range at every step."""
    mask_target: Annotated[Literal["input", "refined"], REBUILT] = "input"
    """Teaches the mask the mistakes of the spoiled logits, or those the refined logits still make."""
    mask_weight: Annotated[float, REBUILT] = Field(1.0, ge=0)
    """Weighs the mask's loss beside the refinement's."""
    largest_balance: Annotated[float, REBUILT] = Field(10.0, ge=1)
    """Counts wrong pixels, which are few, #right / #wrong times in the mask's loss, but at most this many times. The
    mask then drops pixels that are wrong with a probability above 1 / (1 + this); with 1, above a half."""
    noise_threshold: Annotated[float, REBUILT] = Field(0.5, gt=0, lt=1)
    """Drops pixels whose noise the mask puts above this."""
    residual: Annotated[bool, REBUILT] = False
    """Adds the output, which starts at 0, to the input logits: at first the network says what the teacher says."""
    warmup: Annotated[int, BUDGET, REBUILT] = Field(1500, ge=0)
    """Trains the network for so many steps before its labels and mask are used."""
    width: Annotated[int, BUDGET, REBUILT] = Field(256, ge=8, multiple_of=8)
    """Sets the channels inside."""
    norm: Annotated[Norm, BUDGET, REBUILT] = "batch"
    """Normalises by ``batch``, or by ``group``, which suits batches of one or two small images."""
    dropout: Annotated[float, REBUILT] = Field(0.1, ge=0, lt=1)
    """Drops this share of the channels before the two heads."""
    augment_source: Annotated[bool, REBUILT] = False
    """Shows the teacher the strong view of the source, so that its features are not perfect either."""

    @model_validator(mode="after")
    def _check(self) -> RefinementNetworkSettings:
        low, high = self.strength
        if not 0 <= low <= high <= 0.5:
            raise ValueError(f"strength is a range low, high with 0 <= low <= high <= 0.5, got {low}, {high}")
        if not (self.refine or self.mask):
            raise ValueError("refine and mask are both off, so there is nothing to do; remove this refiner instead")
        return self

    @property
    def needs_source(self) -> bool:
        return True

    @property
    def passes(self) -> float:
        return 1 / 3 + 0.3  # the teacher on the source, and the network

    def build(self, segmenter: Segmenter, space: LabelSpace | None = None) -> RefinementNetwork:
        from segrefinery.refine.refinement_network.refiner import RefinementNetwork

        return RefinementNetwork(self, segmenter)
