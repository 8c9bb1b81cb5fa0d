"""What every stage lets a recipe choose. Nothing here needs torch: a recipe is read without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from segrefinery.core.settings import BUDGET, CODE, Settings
from segrefinery.models.networks import ModelSettings
from segrefinery.models.settings import Statistics
from segrefinery.refine.settings import RefinerSettings

if TYPE_CHECKING:
    from segrefinery.stages.base import Stage, StageContext


_Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """An optimizer and how its rate moves."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Chooses the optimizer."""
    lr: Annotated[float, CODE] = Field(default=6e-5, gt=0)
    """Sets the base learning rate: that of the pre-trained encoder."""
    head_factor: Annotated[float, CODE] = Field(default=10.0, gt=0)
    """Multiplies the base rate for the network's heads."""
    refiner_factor: Annotated[float, CODE] = Field(default=10.0, gt=0)
    """Multiplies the base rate for what refiners train beside the network."""
    bias_factor: Annotated[float, CODE] = Field(default=1.0, gt=0)
    """Multiplies the rate of the biases of the network's convolutions and linear maps once more (FCN-8s in BDL's code:
    2)."""
    weight_decay: Annotated[float, CODE] = Field(default=0.01, ge=0)
    """Draws weights towards 0; biases and norms are left alone."""
    momentum: Annotated[float, CODE] = Field(default=0.9, ge=0, lt=1)
    """Weighs the past in SGD's velocity."""
    betas: Annotated[tuple[_Beta, _Beta], CODE] = (0.9, 0.999)
    """Weighs the past in Adam's running means of gradients and of their squares."""
    power: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Lets the rate fall as lr * (1 - step / horizon) ** power; 0 keeps it."""
    drop_every: int | None = Field(default=None, gt=0)
    """Lets the rate fall to a tenth after so many steps, again and again (FCN-8s: 50,000); by default never."""
    horizon: int | None = Field(default=None, gt=0)
    """Names the step at which the rate would reach 0; by default the length of the stage."""
    warmup: int = Field(default=0, ge=0)
    """Raises the already decayed rate linearly for so many steps."""
    warmup_ratio: float | None = Field(default=None, gt=0, le=1)
    """Begins the warm-up at this share of the rate (DAFormer: 1e-6); by default 1 / ``warmup``."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Multiplies the rate of an encoder layer over that of the layer above it (plain vision transformers); 1 =
    one rate."""


class ClassifierWeights(Settings):
    """Weights of a network's classifiers in a loss."""

    main: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs the main classifier."""
    aux: Annotated[float, CODE] = Field(default=0.1, ge=0)
    """Weighs the second learner, where the network has one (AdaptSegNet: 0.1; MRNet: 0.5; HRDA's detail crop: 0.1)."""


class LossWeights(ClassifierWeights):
    """Weights of a network's classifiers in the cross-entropy, and how it is averaged."""

    mean_over: Annotated[Literal["all", "labelled"], CODE] = "all"
    """Divides the cross-entropy by all pixels, ignored ones included (DAFormer), or by those alone that have a label
    and a weight above 0 (``labelled``: BDL, SAM)."""


class LabelledSettings(Settings):
    """How a stage learns from labelled target images, where a run is given any (``--labels``)."""

    weight: float = Field(default=1.0, ge=0)
    """Weighs their loss, in batches of their own; 0 = the stage does not learn from them."""
    batch: Annotated[int | None, BUDGET] = Field(default=None, gt=0, le=65_536)
    """Shows so many a step, repeated evenly where they are few; by default as many as other target images."""
    sampling: Literal["uniform", "rare_class"] = "uniform"
    """Draws them evenly, or by DAFormer's rare class sampling."""


class StageSettings(Settings):
    """What every stage lets a recipe choose."""

    steps: Annotated[int, BUDGET] = Field(gt=0, le=1_000_000_000)
    """Takes so many optimizer steps."""
    optimizer: Annotated[OptimizerSettings, BUDGET] = OptimizerSettings()
    """Chooses the optimizer and its rates."""
    before: str | None = None
    """Puts the stage in front of another one, for a recipe that extends one or for ``--set``; by default a new stage is
    the last."""
    start: Literal["previous", "fresh"] = "previous"
    """Trains on from the weights the last stage left, or from a newly built network."""
    model: Annotated[ModelSettings | None, BUDGET] = None
    """Names the network of a fresh start; by default the recipe's (a distilled student may be another)."""
    batch: Annotated[int | None, BUDGET] = Field(default=None, gt=0, le=65_536)
    """Takes so many images of each domain a step; by default the recipe's ``data.batch``."""
    crop: Annotated[tuple[int, int] | None, BUDGET] = None
    """Sets height and width of the training crop; by default the recipe's ``data.crop``."""
    sampling: Literal["uniform", "rare_class"] = "uniform"
    """Draws source images evenly, or by DAFormer's rare class sampling."""
    labelled: LabelledSettings = LabelledSettings()
    """Says how the stage learns from the labelled target images of ``--labels``; without any, it has no effect."""

    @property
    def takes_target(self) -> bool:
        """Whether a step takes a batch of the target beside that of the source."""
        return True

    @property
    def reads_target_labels(self) -> bool:
        """Whether the labelled batches are of the target (an oracle), instead of the source."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether source and target images are pasted into each other, and so must have one size."""
        return False

    @property
    def hands_on_model(self) -> bool:
        """Whether the next stage goes on from this one's network; if not, only what its refiners learned goes on."""
        return True

    @property
    def chain(self) -> Mapping[str, RefinerSettings]:
        """Its refiners, in order."""
        return {}

    @property
    def passes(self) -> float:
        """What a step costs, in forward and backward passes of one batch; one without gradients is a third."""
        return 2.0

    @property
    def source_only(self) -> bool:
        """Whether it trains on nothing but the source."""
        return not self.takes_target and not self.reads_target_labels

    @property
    def needs_source(self) -> str | None:
        """Why the stage cannot do without source images, in words; None if it can."""
        return next(
            (f"{name} learns from the source" for name, refiner in self.chain.items() if refiner.needs_source), None
        )

    @property
    def compares_learners(self) -> str | None:
        """The setting by which the stage needs a network with a second classifier; None if it needs none."""
        return next((f"refine.{name}" for name, refiner in self.chain.items() if refiner.compares_learners), None)

    def beside_a_model(self) -> StageSettings | None:
        """What is left of the stage in a run that starts from a trained model: all of it, or less, or None."""
        return self

    @property
    def repeats(self) -> int:
        """How often the stage runs in a row (generations, rounds)."""
        return 1

    def on_network(self, statistics: Statistics) -> Self:
        """The settings with what they leave to the network that is trained: whose ``statistics`` batch norm keeps."""
        del statistics
        return self

    def repeated(self, number: int) -> Self:
        """The settings of the stage's run of this number, from 1: a generation that starts fresh does so every time."""
        return self

    @property
    def translated_folder(self) -> str | None:
        """The folder of translated source images that the stage's source batches show beside the source's, or None."""
        return None

    @model_validator(mode="after")
    def _another_network_starts_fresh(self) -> Self:
        if self.model is not None and self.start != "fresh":
            raise ValueError("a stage with a model of its own needs start: fresh")
        return self

    def build(self, context: StageContext) -> Stage:
        """The stage, ready to train."""
        raise TypeError(f"{type(self).__name__} builds no stage")
