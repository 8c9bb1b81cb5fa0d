"""What a recipe may say of CPSL; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from segrefinery.core.settings import BUDGET, CODE, PAPER, PresetSettings
from segrefinery.data.settings import AffineViewSettings
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.self_labeling.refiner import SelfLabeling


class SelfLabelingSettings(RefinerSettings, PresetSettings):
    """CPSL. Each component of the paper's ablations is a field; w/o Mom also needs the stage's ``teacher.decay: 0``."""

    presets: ClassVar = {
        "official": {
            "initial": "images",
            "initial_features": "raw",
            "samples": 256,
            "sampling": "uniform",
            "distribution_momentum": 1.0,
            "assign": "image",
            "assign_logits": True,
            "wait_for_bank": True,
            "consistency": "clusters",
            "divisor": "elements",
        }
    }
    preset: Literal["paper", "official"] = "paper"
    """Chooses the other defaults: what the paper says, or (``official``) what the authors' code does."""
    labels: Literal["rectified", "soft_labels", "clusters"] = "rectified"
    """Makes labels from clusters times soft labels, from the soft labels alone (w/o SL, with ``self_labeling_weight:
    0``) or from the clusters alone (w/o ST)."""
    soft_labels: Literal["warmup", "chain"] = "warmup"
    """Rectifies the fixed opinion of the network as it was before this stage, or what the refiners before this one hand
    in (to stack)."""
    temperature: Annotated[float, PAPER] = Field(default=0.08, gt=0)
    """Divides the cosines in the cluster softmax (tau); towards 0 the labels follow the clusters."""
    initial: Annotated[Literal["pixels", "images", "random"], PAPER] = "pixels"
    """Starts the cluster weights as class means over all pixels, as class means of image means, or at random (w/o
    Init)."""
    initial_features: Annotated[Literal["normalized", "raw"], PAPER] = "normalized"
    """Averages features of length 1 for the first clusters, as eq. 7 does, or raw features; the mean is normalised
    after either."""
    head_momentum: Annotated[float, BUDGET, PAPER] = Field(default=0.999, ge=0, le=1)
    """Weighs the old copy of the head in its moving average; 0 for none (w/o Mom)."""
    head_lr: Annotated[float, BUDGET, PAPER] = Field(default=5e-4, gt=0)
    """Sets the learning rate of the head, which SGD moves whatever the stage's optimizer is: an adaptive step would not
    feel lambda 1."""
    samples: Annotated[int, BUDGET, PAPER] = Field(default=512, ge=1)
    """Draws so many pixels from each image (M)."""
    sampling: Annotated[Literal["balanced", "uniform"], PAPER] = "balanced"
    """Draws pixels by class (eq. 9), or evenly (w/o CB)."""
    marginal: Annotated[Literal["distribution", "uniform"], PAPER] = "distribution"
    """Gives the assignment the class shares of the labels (eq. 12), or equal ones (w/o CB)."""
    distribution_momentum: Annotated[float, BUDGET] = Field(default=0.999, ge=0, le=1)
    """Weighs the old class distribution in eq. 11; 1 keeps that of the warm-up network."""
    epsilon: Annotated[float, PAPER] = Field(default=0.05, gt=0)
    """Divides the scores of the assignment (eq. 6); smaller is harder."""
    iterations: Annotated[int, CODE] = Field(default=3, ge=1)
    """Limits the Sinkhorn iterations; 3 leave the class marginal approximate, 50 meet it."""
    bank: Annotated[int, BUDGET, PAPER] = Field(default=65_536, ge=1)
    """Remembers so many pixel features."""
    wait_for_bank: bool = False
    """Leaves the bank out of the assignment until it is full."""
    assign: Literal["batch", "image"] = "batch"
    """Assigns all pixels of a batch at once, or image after image."""
    assign_logits: Annotated[bool, PAPER] = False
    """Adds a second assignment, of the teacher's logits, as the official code does."""
    self_labeling_weight: Annotated[float, PAPER] = Field(default=0.1, ge=0)
    """Weighs the clusters' loss (lambda 1)."""
    consistency_weight: Annotated[float, PAPER] = Field(default=5.0, ge=0)
    """Weighs the consistency of weak and strong view (lambda 2); 0 for w/o Aug."""
    consistency: Annotated[Literal["symmetric", "clusters"], PAPER] = "symmetric"
    """Compares segmentation softmaxes in both directions (eq. 13), or cluster softmaxes by KL(teacher || student)."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Takes the consistency as a mean over pixels, or over pixels and classes (1/C of that), for which the authors
    chose its weight."""
    strong_view: Annotated[AffineViewSettings | None, CODE] = AffineViewSettings()
    """Shows the student RandAugment, Cutout, jitter and blur by default; null for the stage's photometric view."""

    @property
    def passes(self) -> float:
        return (1.0 if self.consistency_weight else 0.0) + (1 / 3 if self.soft_labels == "warmup" else 0.0)

    def build(self, segmenter: Segmenter, space: LabelSpace) -> SelfLabeling:
        """The refiner for networks of this one's shape."""
        from segrefinery.refine.self_labeling.refiner import SelfLabeling

        return SelfLabeling(self, segmenter, space)
