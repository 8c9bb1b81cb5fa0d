"""What a recipe may say of UncerDA's mixtures and of its rounds; read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from segrefinery.core.settings import BUDGET, PAPER, Settings
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


class TargetGuidedSettings(Settings):
    """Draw source images by what the target finds uncertain; the defaults are UncerDA's."""

    classes: Annotated[Literal["uncertain", "all"], PAPER] = "uncertain"
    """Favours the classes that the target finds most uncertain, from the second round on (TGAA in the paper's Table 3),
    or balances all classes from the first round on (SR)."""
    uncertain: int = Field(default=7, ge=1)
    """Counts so many classes as uncertain (k; the paper's results are stable for 5 to 9)."""
    balance: Annotated[float, PAPER] = Field(default=0.9, ge=0, le=1)
    """Balances the classes so far: 0 = sample evenly, 1 = full class balance."""
    steepness: Annotated[float, PAPER] = Field(default=80.0, gt=0)
    """Sets how sharply eq. 5 parts images (alpha)."""
    midpoint: Annotated[Annotated[float, Field(ge=0, le=1)] | Literal["median"], PAPER] = 0.02
    """Sets the score in the middle of eq. 5 (mu): the paper's number, which fits its 19 classes, or the data's own
    middle, the median score of the images that hold a favoured class."""
    clip: bool = True
    """Holds the sampling score at or below 1."""
