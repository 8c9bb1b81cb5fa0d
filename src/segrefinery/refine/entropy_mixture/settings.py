"""What a recipe may say of UncerDA's mixtures; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from segrefinery.core.settings import BUDGET
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.entropy_mixture.refiner import EntropyMixture


class EntropyMixtureSettings(RefinerSettings):
    """Keep the pixels whose entropy belongs to the certain Gaussian of their class."""

    gmm_scope: Literal["image", "dataset"] = "image"
    """Fits a mixture for each image and class (the paper's best reading), or one a class over the target set."""
    soft: bool = False
    """Weighs pixels by the posterior of the certain component, instead of keeping those above 1/2."""
    guard: bool = True
    """Keeps also entropies below the certain mean, where a wide uncertain Gaussian may overtake a narrow certain
    one."""
    min_pixels: Annotated[int, BUDGET] = Field(default=100, ge=2)
    """Uses the target set's mixture for a class with fewer pixels in an image."""
    bins: Annotated[int, BUDGET] = Field(default=256, ge=16, le=4096)
    """Gathers entropies in so many bins of [0, 1]."""
    iterations: int = Field(default=100, ge=1)
    """Ends the EM after so many iterations at the latest."""
    tolerance: float = Field(default=1e-6, gt=0)
    """Ends the EM when the mean log-likelihood moves by less."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> EntropyMixture:
        from segrefinery.refine.entropy_mixture.refiner import EntropyMixture

        return EntropyMixture(self, space.num_classes)
