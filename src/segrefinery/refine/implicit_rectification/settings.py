"""What a recipe may say of IR2F; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from segrefinery.core.settings import BUDGET, REBUILT
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.implicit_rectification.refiner import ImplicitRectifier


Weighting = Literal["implicit", "equal", "heuristic", "discrete"]


class ImplicitRectificationSettings(RefinerSettings):
    """Continuous rectification by a mixture of learners; the defaults are our reading of the paper."""

    weighting: Annotated[Weighting, REBUILT] = "implicit"
    """Decodes the learners' weights at every point (``implicit``). To compare: ``equal`` weights; the host's own
    ``heuristic`` (HRDA's scale attention; for two classifiers exp(-KL) on the target's loss, as in MRNet);
    ``discrete``: the same function on the first learner's grid, up-sampled."""
    queries: Annotated[int, BUDGET, REBUILT] = Field(default=16384, gt=0)
    """Trains the mixture on so many random points an image."""
    source_weight: Annotated[float, REBUILT] = Field(default=1.0, ge=0)
    """Weighs the mixture's loss on the source."""
    target_weight: Annotated[float, REBUILT] = Field(default=1.0, ge=0)
    """Weighs the mixture's loss on the mixed image."""
    betas: Annotated[tuple[float, ...], REBUILT] = ()
    """Weighs each learner's own cross-entropy inside these losses, a guard against starvation; none by default, for the
    stage has its own (its ``weights``)."""
    space: Annotated[Literal["prob", "logit"], REBUILT] = "prob"
    """Mixes probabilities or logits."""
    classwise: Annotated[bool, REBUILT] = False
    """Gives each class a weight of its own."""
    pe: Annotated[Literal["raw", "fourier"], REBUILT] = "raw"
    """Reads relative positions as they are, or with sines and cosines."""
    ensemble: Annotated[Literal["four", "nearest", "joint"], REBUILT] = "four"
    """Chooses the cells that a point is read from; only ``four`` is continuous."""
    unfold: Annotated[bool, REBUILT] = False
    """Reads 3 x 3 latents at each cell."""
    shared: Annotated[bool, REBUILT] = False
    """Uses one reader for all learners, as fits HRDA, whose scales share their network."""
    noise_component: bool = False
    """Adds a component on the target: every class equally probable, for labels that no learner supports."""
    detach_latents: Annotated[bool, REBUILT] = False
    """Keeps the weights' gradient from the network."""
    pixel_weight: Annotated[Literal["none", "mixture", "noise"], REBUILT] = "none"
    """Multiplies the labels' weight by the mixture's largest probability, by 1 minus the noise's weight, or by
    nothing."""
    hidden: Annotated[int, BUDGET, REBUILT] = Field(default=256, gt=0)
    """Sets the width of the function's layers."""

    @model_validator(mode="after")
    def _consistent(self) -> ImplicitRectificationSettings:
        if self.noise_component and self.weighting not in ("implicit", "discrete"):
            raise ValueError(f"noise_component needs learned weights; weighting is {self.weighting!r}")
        if self.pixel_weight == "noise" and (not self.noise_component or self.classwise):
            raise ValueError("pixel_weight: noise needs noise_component: true and classwise: false")
        return self

    @property
    def needs_source(self) -> bool:
        return self.source_weight > 0

    @property
    def compares_learners(self) -> bool:
        return True

    @property
    def passes(self) -> float:
        return 0.4  # the function at its queries and on the grid

    def build(self, segmenter: Segmenter, space: LabelSpace) -> ImplicitRectifier:
        """The refiner of a network's learners."""
        from segrefinery.refine.implicit_rectification.refiner import ImplicitRectifier

        return ImplicitRectifier(segmenter.learner_channels, space.num_classes, self)
