"""What a recipe may say of ProDA; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from segrefinery.core.settings import BUDGET, CODE, PAPER, PresetSettings
from segrefinery.data.settings import AffineViewSettings
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.prototypes.refiner import Prototypes


class PrototypesSettings(RefinerSettings, PresetSettings):
    """ProDA. The ``paper`` preset takes means over pixels; ``official`` does as the authors' code does."""

    presets: ClassVar = {
        "official": {
            "initial": "images",
            "update": "image",
            "update_labels": "teacher",
            "divisor": "elements",
        }
    }
    preset: Literal["paper", "official"] = "paper"
    """Chooses the other defaults: means over pixels, or (``official``) what the authors' code does."""
    soft_labels: Literal["warmup", "chain"] = "warmup"
    """Denoises the fixed opinion of the network as it was before this stage, or what the refiners before this one hand
    in (to stack)."""
    temperature: Annotated[float, CODE] = Field(default=1.0, gt=0)
    """Divides the distances (tau)."""
    initial: Annotated[Literal["pixels", "images"], PAPER] = "pixels"
    """Starts prototypes as means over all pixels of a class, or as means of the images' class means."""
    momentum: Annotated[float, BUDGET, CODE] = Field(default=0.9999, ge=0, le=1)
    """Weighs the old prototype in each move (lambda)."""
    update: Annotated[Literal["batch", "image"], PAPER] = "batch"
    """Moves prototypes once a batch, or once an image."""
    update_labels: Annotated[Literal["refined", "teacher"], PAPER] = "refined"
    """Moves prototypes by the refined labels, or by the teacher's own argmax."""
    min_pixels: Annotated[int, BUDGET, CODE] = Field(default=10, ge=1)
    """Leaves a prototype where it is if fewer pixels carry its class."""
    structure_weight: Annotated[float, CODE] = Field(default=10.0, ge=0)
    """Weighs the KL between the prototype softmaxes of weak and strong view (gamma 1)."""
    regularizer_weight: Annotated[float, CODE] = Field(default=0.1, ge=0)
    """Weighs MRKLD on the student's target prediction (gamma 2); the authors use 0 for SYNTHIA."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Takes both losses as means over pixels, or over pixels and classes (1/C of that)."""
    strong_view: Annotated[AffineViewSettings | None, CODE] = AffineViewSettings(blur=0.0, jitter_probability=0.0)
    """Shows the student RandAugment and Cutout by default; null for the stage's photometric view."""

    @property
    def passes(self) -> float:
        return (1.0 if self.structure_weight else 0.0) + (1 / 3 if self.soft_labels == "warmup" else 0.0)

    def build(self, segmenter: Segmenter, space: LabelSpace) -> Prototypes:
        """The refiner for networks of this one's shape."""
        from segrefinery.refine.prototypes.refiner import Prototypes

        return Prototypes(self, segmenter, space)
