"""What a recipe may say of data: how images are read, viewed and translated, and how data sets are named.

Nothing here needs torch: a recipe is read without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from segrefinery.core.errors import SegRefineryError, as_given
from segrefinery.core.pixels import IMAGENET, Normalization, PerBand, refuse_statistics
from segrefinery.core.settings import BUDGET, CODE, Settings

BETWEEN = " + "
"""What stands between the data sets of one reference."""

LONGEST_SIDE = 100_000
"""Pixels of a side that images are brought to; a larger number is taken for a mistake."""
MOST_ENLARGED = 100

References = Annotated[
    str | Path | Sequence[str | Path],
    "NAME:PATH[@SPLIT] or a folder, or a list of these,",
    "data are read from files: write the images of a Python object into a folder (and its masks, with a dataset.yaml) "
    "or into shards",
]
"""A data set, or several."""


def joined_reference(references: References | None) -> str | None:
    """One text that names all of several data sets: ``A + B``; None where there are none.

    Raises:
        SegRefineryError: what is given is no name, or one that is empty, as that of a shell's variable is which was
            never set. To drop it would train or score without what somebody meant to name.
    """
    if references is None:
        return None
    listed = [references] if isinstance(references, str | Path) else references
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str | Path) for each in listed):
        given = as_given(references)
        raise SegRefineryError(f"NAME:PATH[@SPLIT] or a folder expected, or a list of these; got {given}")
    names = [str(each) for each in listed]
    if not all(name.strip() for name in names):
        raise SegRefineryError("the name of a data set is empty; write NAME:PATH[@SPLIT] or a folder, or leave it away")
    return BETWEEN.join(names) or None


def _joined(given: Any) -> Any:
    texts = isinstance(given, str) or (isinstance(given, list | tuple) and all(isinstance(each, str) for each in given))
    if not texts:
        return given
    try:
        return joined_reference(given)
    except SegRefineryError as error:
        raise ValueError(str(error)) from error


Reference = Annotated[str | None, BeforeValidator(_joined)]
"""A setting that names a data set, or several in a list."""


class DataSettings(Settings):
    """How images are read, cropped and batched."""

    short_side: Annotated[int | None, BUDGET] = Field(default=None, ge=1, le=LONGEST_SIDE)
    """Resizes every image to this shorter side in pixels, its aspect kept; null leaves images as they are."""
    evaluation_short_side: Annotated[int | None, BUDGET] = Field(default=None, ge=1, le=LONGEST_SIDE)
    """Resizes whole images that are only looked at (evaluation, prediction, passes before a stage) to this shorter
    side; by default ``short_side`` (CPSL trains at 1100 and is evaluated at 1024)."""
    crop: Annotated[tuple[int, int], BUDGET] = (512, 512)
    """Sets height and width of a training crop in pixels."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Draws a random scale from this range, on top of the resize."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Flips left and right with this probability."""
    photometric: float = Field(default=0.0, ge=0, le=1)
    """Sets the strength of the colour jitter of source images (brightness, contrast, saturation, hue); 0 = none."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Blurs source images with this probability, sigma U(0.15, 1.15)."""
    max_class_share: float = Field(default=1.0, gt=0, le=1)
    """Draws a labelled crop again, up to ten times, while one class covers more of it than this (DAFormer: 0.75)."""
    rare_min_pixels: Annotated[int, BUDGET] = Field(default=3000, ge=0)
    """Counts an image for a class, in rare class sampling, if it has more than this many pixels of it."""
    rare_crop_ratio: float = Field(default=0.5, ge=0)
    """Draws the crop again, in rare class sampling, up to ten times, until it has more than this times
    ``rare_min_pixels`` pixels of the wanted class (DAFormer 0.5, HRDA and MIC 2)."""
    batch: Annotated[int, BUDGET] = Field(default=2, ge=1, le=65_536)
    """Takes so many source and target images per step, each, over all ranks."""
    workers: Annotated[int, BUDGET] = Field(default=2, ge=0, le=1024)
    """Reads and augments ahead in so many processes; 0 = in the training process. Batches do not depend on it."""
    cache: Annotated[bool | Literal["disk"], BUDGET] = False
    """Keeps decoded and resized images in memory (true), or in files below ``SEGREFINERY_CACHE`` (``disk``), of which
    only the part that a crop shows is read; of these 100 GiB are kept, or ``SEGREFINERY_CACHE_GIB``."""
    pixel_mean: PerBand | None = None
    """Takes this mean of each colour channel, in [0, 1], from every image; by default the network's own."""
    pixel_std: PerBand | None = None
    """Divides every image by this standard deviation of each colour channel; by default the network's own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 1 <= min(self.crop) <= max(self.crop) <= LONGEST_SIDE:
            raise ValueError(f"crop must be a height and a width of 1 to {LONGEST_SIDE} pixels, not {self.crop}")
        if not 0 < self.scale[0] <= self.scale[1] <= MOST_ENLARGED:
            raise ValueError(f"scale must be (min, max) with 0 < min <= max <= {MOST_ENLARGED}, not {self.scale}")
        try:
            refuse_statistics(self.pixel_mean, self.pixel_std)
        except ValueError as error:
            raise ValueError(f"pixel_mean, pixel_std: {error}") from error
        return self

    @property
    def normalization(self) -> Normalization:
        """Mean and deviation of the pixels; ImageNet's where neither a recipe nor a network (``read_by``) names any."""
        return Normalization(self.pixel_mean or IMAGENET.mean, self.pixel_std or IMAGENET.std)

    def read_by(self, normalization: Normalization) -> Self:
        """The settings with a network's own statistics where none are set."""
        mean, std = self.pixel_mean or normalization.mean, self.pixel_std or normalization.std
        return self.model_copy(update={"pixel_mean": mean, "pixel_std": std})


class StrongViewSettings(Settings):
    """Colour jitter and blur of the mixed image; the defaults are the constants of DACS and DAFormer."""

    jitter: Annotated[float, CODE] = Field(default=0.2, ge=0, le=1)
    """Changes brightness, contrast and saturation by U(1-s, 1+s), hue by U(-s, s), with this strength s."""
    jitter_probability: Annotated[float, CODE] = Field(default=0.8, ge=0, le=1)
    """Changes the colours with this probability."""
    blur_probability: Annotated[float, CODE] = Field(default=0.5, ge=0, le=1)
    """Blurs with this probability."""
    sigma: Annotated[tuple[float, float], CODE] = (0.15, 1.15)
    """Draws the blur's standard deviation in pixels from this range."""
    kernel: Annotated[float, CODE] = Field(default=0.1, gt=0, le=1)
    """Sets the width of the blur's kernel as a share of the shorter side (51 of 512)."""
    shared_coins: bool = False
    """Throws one pair of coins for the whole batch, as the official code does; strengths stay one an image."""


class AffineViewSettings(Settings):
    """RandAugment with one affine map, Cutout, jitter and blur; the defaults are the constants of CPSL's code."""

    flip: Annotated[float, CODE] = Field(default=0.5, ge=0, le=1)
    """Flips left and right with this probability."""
    blur: Annotated[float, CODE] = Field(default=0.5, ge=0, le=1)
    """Blurs by a Gaussian with sigma 1 with this probability."""
    jitter: Annotated[float, CODE] = Field(default=0.4, ge=0, le=1)
    """Sets the strength of the colour jitter."""
    jitter_probability: Annotated[float, CODE] = Field(default=0.5, ge=0, le=1)
    """Changes the colours with this probability; ProDA has neither this nor a blur."""
    operations: Annotated[int, CODE] = Field(default=2, ge=0)
    """Draws so many operations, with replacement, from FixMatch's pool of 14."""
    operation_probability: Annotated[float, CODE] = Field(default=0.5, ge=0, le=1)
    """Applies a drawn operation with this probability."""
    cutout: Annotated[float, CODE] = Field(default=1 / 3, ge=0, le=1)
    """Greys a square (Cutout) whose side is this share of the shorter side of the image; 0 = none."""


class TranslationSettings(Settings):
    """How a source image takes the target's style; needs no training of its own."""

    kind: Literal["fda", "color", "folder"] = "fda"
    """Takes from a target image of the same step the low frequencies of the amplitude spectrum (``fda``), or the mean
    and spread of each channel of CIE Lab (``color``); or shows images that another tool has translated (``folder``)."""
    folder: str | None = None
    """Names the folder of those images, matched with the source's by file name."""
    fraction: Annotated[float, CODE] = Field(default=0.01, ge=0, le=0.5)
    """Sets half the width of FDA's swapped square, as a share of the shorter side (beta: 0.01, 0.05 or 0.09)."""

    @model_validator(mode="after")
    def _folder_goes_with_its_kind(self) -> Self:
        if self.kind == "folder" and not self.folder:
            raise ValueError("kind: folder needs folder: PATH, the images that another tool has translated")
        if self.kind != "folder" and self.folder is not None:
            raise ValueError(f"kind: {self.kind} reads no folder; set kind: folder, or leave the folder away")
        return self
