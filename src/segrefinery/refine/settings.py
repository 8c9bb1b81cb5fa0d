"""What a recipe may say of a refiner, and of the small ideas; a method's own settings are in its folder.

Nothing here needs torch: a recipe is read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import BUDGET, CODE, REBUILT, Settings
from segrefinery.labels import match
from segrefinery.models.settings import Norm

if TYPE_CHECKING:
    from segrefinery.labels import LabelSpace
    from segrefinery.models.segmenter import Segmenter
    from segrefinery.refine.base import Refiner
    from segrefinery.refine.class_balanced import ClassBalanced, InstanceAdaptive
    from segrefinery.refine.confidence import ConfidenceShare, ConfidenceThreshold
    from segrefinery.refine.contrastive import PixelContrast
    from segrefinery.refine.feature_distance import FeatureDistance
    from segrefinery.refine.masked_consistency import MaskedConsistency
    from segrefinery.refine.tether import Tether


class RefinerSettings(Settings):
    """What a recipe says of a refiner. Each declares what others need to know of it."""

    @property
    def only_adds_losses(self) -> bool:
        """Whether the refiner leaves labels and their weights as they are."""
        return False

    @property
    def needs_source(self) -> bool:
        """Whether the refiner learns from source images, so that it cannot do without them."""
        return False

    @property
    def compares_learners(self) -> bool:
        """Whether the refiner weighs a network's two classifiers against each other, and so needs both."""
        return False

    @property
    def teaches_first(self) -> bool:
        """Whether these settings train what the same refiner needs in a later stage (SAM's attention)."""
        return False

    @property
    def must_be_taught(self) -> bool:
        """Whether an earlier stage has to have trained the refiner."""
        return False

    @property
    def passes(self) -> float:
        """What the refiner adds to a step, as ``StageSettings.passes`` counts: its own passes of the network, and about
        what it computes beside them."""
        return 0.0

    def build(self, segmenter: Segmenter, space: LabelSpace) -> Refiner:
        """The refiner for networks of this one's shape."""
        raise TypeError(f"{type(self).__name__} builds no refiner")


class ConfidenceThresholdSettings(RefinerSettings):
    """Learn only from pixels whose confidence reaches a threshold."""

    threshold: float = Field(default=0.0, ge=0, le=1)
    """Drops pixels of a lower confidence, whatever their class; 0 = no fixed threshold."""
    classes: Literal["none", "fitted", "running"] = "fitted"
    """Fits thresholds for the classes once over the target before a generation (``fitted``), over the latest batches
    (``running``), or not at all."""
    portion: Annotated[float, CODE] = Field(default=0.5, ge=0, le=1)
    """Keeps this share of each class: 0.5 = class median (BDL, SAM), 0.34 = FDA."""
    cap: Annotated[float, CODE] = Field(default=0.9, ge=0, le=1)
    """Holds every class threshold at or below this."""
    bins: Annotated[int, BUDGET] = Field(default=1000, ge=10, le=10000)
    """Counts confidences in so many bins of [0, 1]; the resolution of a class threshold."""
    momentum: Annotated[float, BUDGET] = Field(default=0.99, ge=0, lt=1)
    """Weighs the past in a running histogram, per step."""

    @model_validator(mode="after")
    def _thresholds_something(self) -> Self:
        if self.classes == "none" and self.threshold == 0.0:
            raise ValueError("nothing to threshold: set threshold above 0 or classes to fitted or running")
        return self

    def build(self, segmenter: Segmenter, space: LabelSpace) -> ConfidenceThreshold:
        from segrefinery.refine.confidence import ConfidenceThreshold

        return ConfidenceThreshold(self, space.num_classes)


class ConfidenceShareSettings(RefinerSettings):
    """Trust an image as far as the share of its confident pixels (DACS, DAFormer)."""

    threshold: Annotated[float, CODE] = Field(default=0.968, ge=0, le=1)
    """Calls a pixel confident from here on."""
    preset: Literal["paper", "official"] = "paper"
    """Takes the share per image and p > threshold (``paper``), or one share for the batch and p >= threshold
    (``official``)."""
    ignored_rows: tuple[float, float] = (0.0, 0.0)
    """Gives no weight to these shares of the height, top and bottom (a bonnet, rectification borders)."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> ConfidenceShare:
        from segrefinery.refine.confidence import ConfidenceShare

        return ConfidenceShare(self)


class ClassBalancedSettings(RefinerSettings):
    """Keep the same share of every class, by a re-weighted argmax."""

    kind: Annotated[Literal["cbst", "mrkld", "lrent"], CODE] = "cbst"
    """Chooses CBST's hard labels (``cbst``), those that also keep the student from being too sure where it learns
    (``mrkld``), or soft labels (``lrent``)."""
    portion: Annotated[float, CODE] = Field(default=0.2, gt=0, le=1)
    """Keeps this share of each class; CBST starts at 0.2 and adds 0.05 a generation, up to 0.5."""
    bins: Annotated[int, BUDGET] = Field(default=10000, ge=10, le=10000)
    """Counts confidences in so many bins of [0, 1]; the resolution of a threshold."""
    mrkld_weight: Annotated[float, CODE] = Field(default=0.1, ge=0)
    """Weighs MRKLD's regulariser."""
    temperature: Annotated[float, CODE] = Field(default=0.25, gt=0)
    """Sharpens LRENT's labels, which are proportional to (prob / threshold) ^ (1 / temperature)."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> ClassBalanced:
        from segrefinery.refine.class_balanced import ClassBalanced

        return ClassBalanced(self, space.num_classes)


class InstanceAdaptiveSettings(RefinerSettings):
    """Thresholds a class that follow each image."""

    alpha: Annotated[float, CODE] = Field(default=0.2, gt=0, le=1)
    """Keeps this share of an image's pixels of a class whose threshold is 1."""
    gamma: Annotated[float, CODE] = Field(default=8.0, ge=0)
    """Keeps the less of a class the lower its threshold is; 0 treats all alike."""
    momentum: Annotated[float, BUDGET, CODE] = Field(default=0.9, ge=0, lt=1)
    """Weighs the old threshold in its moving average (beta)."""
    start: Annotated[float, CODE] = Field(default=0.9, ge=0, le=1)
    """Starts the threshold of every class here."""
    cap: Annotated[float, CODE] = Field(default=0.999, ge=0, le=1)
    """Holds every threshold at or below this."""

    def build(self, segmenter: Segmenter, space: LabelSpace) -> InstanceAdaptive:
        from segrefinery.refine.class_balanced import InstanceAdaptive

        return InstanceAdaptive(self, space.num_classes)


class PixelContrastSettings(RefinerSettings):
    """Draws together the student's features of one class, source and target alike."""

    weight: Annotated[float, REBUILT] = Field(0.1, ge=0)
    """Weighs the loss."""
    temperature: Annotated[float, CODE] = Field(0.1, gt=0)
    """Divides the cosines of two pixels (tau)."""
    warmup: Annotated[int, BUDGET, REBUILT] = Field(1500, ge=0)
    """Waits so many steps before the loss begins: as many as the labels need to be worth following."""
    min_pixels: Annotated[int, BUDGET, CODE] = Field(100, ge=0)
    """Lets a class take part in an image if more of the features' pixels than this carry it; lower it on small
    grids."""
    samples: Annotated[int, BUDGET, CODE] = Field(1024, gt=0)
    """Limits the pool of source and target pixels, which all pairs of image and class share."""
    samples_per_class: Annotated[int, BUDGET, CODE] = Field(100, gt=0)
    """Limits the pixels of one class in one image."""
    width: Annotated[int, BUDGET, CODE] = Field(256, ge=8, multiple_of=8)
    """Sets the channels of the projection."""
    norm: Annotated[Norm, BUDGET, REBUILT] = "batch"
    """Normalises the projection by ``batch``, or by ``group``, which suits batches of one or two small images."""

    @property
    def only_adds_losses(self) -> bool:
        return True

    @property
    def needs_source(self) -> bool:
        return True

    @property
    def passes(self) -> float:
        return 0.2 if self.weight else 0.0  # its projection head

    def build(self, segmenter: Segmenter, space: LabelSpace | None = None) -> PixelContrast:
        from segrefinery.refine.contrastive import PixelContrast

        return PixelContrast(self, segmenter)


class MaskedConsistencySettings(RefinerSettings):
    """Masked image consistency; the defaults are those of 1024 x 1024 crops (32 for blocks at 512 x 512)."""

    block: Annotated[int, BUDGET, CODE] = Field(default=64, gt=0)
    """Sets the side of a masked block in pixels."""
    ratio: Annotated[float, CODE] = Field(default=0.7, ge=0, le=1)
    """Hides this share of the blocks."""
    weight: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs the loss."""
    aux_weight: Annotated[float, CODE] = Field(default=0.0, ge=0)
    """Weighs the further learners inside it (HRDA's detail crop: 0.1)."""
    strong: Annotated[bool, CODE] = True
    """Changes also the masked image's colours, as for synthetic sources (``separatetrgaug``)."""
    labels: Literal["refined", "teacher"] = "refined"
    """Learns the refined labels, or the teacher's own; either way as far as the refined labels are trusted."""

    @property
    def only_adds_losses(self) -> bool:
        return True

    @property
    def passes(self) -> float:
        return 1.0 if self.weight else 0.0

    def build(self, segmenter: Segmenter, space: LabelSpace) -> MaskedConsistency:
        """A consistency term; it needs nothing of the network."""
        from segrefinery.refine.masked_consistency import MaskedConsistency

        return MaskedConsistency(self)


THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Cityscapes' things, as DAFormer counts them."""


class FeatureDistanceSettings(RefinerSettings):
    """Feature distance to the pre-trained encoder, on source images."""

    classes: Annotated[tuple[str, ...] | None, CODE] = None
    """Names the thing classes; by default those of Cityscapes' that the label space has."""
    ratio: Annotated[float, CODE] = Field(default=0.75, gt=0.5, le=1)
    """Counts a cell if one thing class covers at least this share of it."""
    weight: Annotated[float, CODE] = Field(default=0.005, ge=0)
    """Weighs the loss."""

    @property
    def only_adds_losses(self) -> bool:
        return True

    @property
    def needs_source(self) -> bool:
        return True

    @property
    def passes(self) -> float:
        return 1 / 3 if self.weight else 0.0

    def build(self, segmenter: Segmenter, space: LabelSpace) -> FeatureDistance:
        """The loss against a frozen copy of ``segmenter``, which must be the network as it was built, before training:
        that is what a stage gives.

        Raises:
            SegRefineryError: the label space has none of the classes, or a named class is not in it.
        """
        from segrefinery.refine.feature_distance import FeatureDistance

        names = self.classes or tuple(name for name in THINGS if match(name, space.classes) is not None)
        if not names:
            raise SegRefineryError(
                "feature_distance: the label space has none of Cityscapes' thing classes. Name its own in 'classes': "
                f"{', '.join(space.classes)}."
            )
        return FeatureDistance(segmenter, [space.id_of(name) for name in names], self)


class TetherSettings(RefinerSettings):
    """Stay near the network of before the stage."""

    weight: float = Field(default=0.1, ge=0)
    """Weighs the loss."""

    @property
    def only_adds_losses(self) -> bool:
        return True

    def build(self, segmenter: Segmenter, space: LabelSpace) -> Tether:
        """A tether for networks of this one's shape."""
        from segrefinery.refine.tether import Tether

        return Tether(segmenter, self)
