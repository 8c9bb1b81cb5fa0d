"""What a recipe may say of networks and of the teacher. Nothing here needs torch: a recipe is read without it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from segrefinery.core.settings import BUDGET, CODE, Settings

Norm = Literal["batch", "group", "none"]
CONFIG, TENSORS = "config.json", "model.safetensors"
"""The files of a saved network."""


class HeadSettings(Settings):
    """What every multi-level head can be told."""

    norm: Annotated[Norm, CODE] = "batch"
    """Normalises by ``batch``, as published, or by ``group``, which does not depend on the batch and suits small
    ones."""
    dropout: Annotated[float, CODE] = Field(default=0.1, ge=0, lt=1)
    """Drops this share of the feature channels before the classifier."""
    auxiliary: bool = False
    """Adds a second classifier on the last level but one, for refiners that compare two learners."""
    relu: Annotated[bool, CODE] = True
    """Reads features after a ReLU, as published. Without, they have both signs, like those of ProDA's and CPSL's own
    head, which are compared with prototypes."""


class SmallSettings(Settings):
    """Size of ``small``."""

    width: int = Field(default=32, ge=16, le=4096, multiple_of=16)
    """Sets the channels at stride 4; twice as many at stride 8, four times at stride 16."""
    blocks: int = Field(default=2, ge=1, le=100)
    """Stacks so many residual blocks at each of the strides 8 and 16."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Drops this share of the feature channels before each classifier."""


class MiTSettings(HeadSettings):
    """A head on a Mix Transformer."""

    drop_path: Annotated[float, CODE] = Field(default=0.1, ge=0, lt=1)
    """Skips blocks of the encoder at random (stochastic depth), the last ones with this probability."""


class SegFormerSettings(MiTSettings):
    """SegFormer: a Mix Transformer and its all-linear head."""

    width: Annotated[int | None, CODE] = Field(default=None, ge=8, le=65_536)
    """Sets the channels of the head; by default, as published, 256 for b0 and b1 and 768 for the larger ones."""
    level_norm: Annotated[bool, CODE] = False
    """Puts a norm and a ReLU behind the linear map of each level, as mmsegmentation's head does (its own checkpoints
    have ``decode_head.convs``). ``False`` leaves the maps linear, as in the paper and its authors' code."""


class TimmSettings(HeadSettings):
    """A head on a timm encoder."""

    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Skips blocks of the encoder at random (stochastic depth), the last ones with this probability, where the encoder
    knows it."""


class EfficientNetLiteSettings(TimmSettings):
    """EfficientNet-Lite and its all-linear head."""

    auxiliary: bool = True
    """Adds a second classifier on the level of stride 16, for refiners that compare two learners."""


class ViTSettings(HeadSettings):
    """A plain vision transformer (DINOv2, DINOv3, ...) and its head."""

    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Skips blocks of the encoder at random (stochastic depth), the last ones with this probability."""
    checkpointing: bool = False
    """Recomputes the encoder's blocks in the backward pass: about a third more time, far less memory."""
    upsample: Literal[1, 2, 4] = 4
    """Makes the head's grid this many times finer than the patches: stride 14, 7 or 3.5 for patches of 14
    pixels."""


class DeepLabV2Settings(Settings):
    """Which DeepLab-v2."""

    head: Annotated[Literal["aspp", "se"], CODE] = "aspp"
    """Chooses the sum of four dilated classifiers (``aspp``), or squeeze-excitation and group norm (``se``), as in
    ProDA and CPSL."""
    aspp_bug_compat: bool = False
    """Counts only the dilations 6 and 12, as AdaptSegNet's code does by mistake, and all that copied it."""
    auxiliary: Annotated[bool, CODE] = True
    """Adds a four-rate classifier on layer3, the second learner. ProDA and CPSL have none, nor HRDA by default."""
    batch_norm: Annotated[Literal["train", "frozen_affine", "frozen"], CODE] = "frozen_affine"
    """Fixes scale and shift while statistics move (``frozen_affine``: AdaptSegNet, ADVENT), or fixes both
    (``frozen``)."""
    caffe_stride: bool = False
    """Puts a block's stride on its first 1x1 convolution, as AdaptSegNet, ProDA and CPSL did. ``False`` leaves it on
    the 3x3 one, with which torchvision's weights were trained. Shapes do not change."""
    normalized: bool = True
    """Reads images normalised by ImageNet's mean and deviation, with which torchvision's weights were trained.
    ``False`` reads colours in [0, 1] as they are, as ProDA and CPSL do with the same weights."""
    dropout: Annotated[float, CODE] = Field(default=0.1, ge=0, lt=1)
    """Drops this share of the 256 channels before the classifier of ``se``."""
    ceil_pooling: Annotated[bool, CODE] = True
    """Rounds up in the first pooling, as the papers' code does: a side of H pixels gives H / 8 + 1 cells where 8
    divides H. ``False`` gives H / 8, so that a box of the image is a box of cells; inside HRDA that is the default."""


class FCN8sSettings(Settings):
    """Size of FCN-8s."""

    width: int = Field(default=4096, ge=8, le=65_536)
    """Sets the channels of the two layers that were fully connected in VGG-16; pre-trained weights have 4096."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Drops this share of the channels after each of them."""


class HRDASettings(Settings):
    """The two scales. Sizes in pixels of the image that is given to the network."""

    detail: Annotated[int, CODE] = Field(default=512, gt=0)
    """Sets the side of the detail box, a multiple of twice ``divisor``; half the training crop in the paper."""
    divisor: int = Field(default=32, gt=0)
    """Says what the network's input sizes must be multiples of: its largest stride, or its patch size. A crop that is
    not a multiple of twice this number is enlarged (bilinear) to the next one."""
    attention_width: Annotated[int, CODE] = Field(default=256, gt=0, le=65_536)
    """Sets the channels of the scale attention (530,707 parameters for the levels of MiT-B5 and 19 classes)."""
    attention_norm: Annotated[Norm, CODE] = "batch"
    """Normalises the scale attention by ``batch``, or by ``group``, which does not depend on the batch and suits small
    ones."""
    window: int | None = Field(default=None, gt=0)
    """Predicts large images, at test time, in overlapping windows of this side, half their side apart, a multiple of
    twice ``divisor``; the training crop in the paper (1024). By default the image is one window."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Passes the wrapped network its own settings."""

    @model_validator(mode="after")
    def _multiples(self) -> HRDASettings:
        for name, side in {"detail": self.detail, "window": self.window}.items():
            if side is not None and side % (2 * self.divisor):
                raise ValueError(f"{name}: {side} is no multiple of {2 * self.divisor}, twice the divisor")
        return self


_SAID_ELSEWHERE = {
    "arch": "model.name",
    "encoder_name": "model.name",
    "encoder_weights": "model.weights",
    "classes": "the data, or the weights that are brought",
    "in_channels": "the images, or the weights that are brought",
}
"""Of a model of segmentation_models.pytorch, and where it is said."""


class SMPSettings(Settings):
    """A segmentation_models.pytorch model."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passes further arguments to the architecture, for instance ``decoder_channels``. An ``activation`` and
    ``aux_params`` are left out: logits of pixels are what is learned from."""

    @model_validator(mode="after")
    def _said_elsewhere(self) -> SMPSettings:
        for name, place in _SAID_ELSEWHERE.items():
            if name in self.arguments and (name, self.arguments[name]) != ("in_channels", 3):
                raise ValueError(f"arguments: {name} is not said here, but by {place}; leave it away")
        return self


class TorchvisionSettings(Settings):
    """A segmentation model of torchvision."""

    auxiliary: bool = Field(default=False)
    """Adds torchvision's second classifier, where the model has one; published weights have it."""


class TransformersSettings(Settings):
    """A semantic-segmentation model of transformers."""

    config: dict[str, Any] = Field(default_factory=dict)
    """Gives the model's configuration, as in its ``config.json``; by default that of its family."""
    bgr: bool = False
    """Shows the model blue first (MobileViT's preprocessor says so)."""


Statistics = Literal["both", "target", "chosen"]
"""Whose statistics batch norms keep in self-training; what each means, ``SelfTrainingSettings`` says."""


class TeacherSettings(Settings):
    """How the teacher follows the student."""

    decay: Annotated[float, BUDGET, CODE] = Field(default=0.999, ge=0, le=1)
    """Weighs the old teacher in the moving average. With 0 it is the student, with 1 it stays what it was at first."""
    ramp: Annotated[bool, BUDGET, CODE] = True
    """Reaches ``decay`` by min(1 - 1/(t+1), decay) after step t = 1, 2, ...: until then the teacher is the mean of
    the students so far, the one before the first step included. Without, every step has ``decay``."""
    mode: Literal["eval", "train"] = "eval"
    """Lets the teacher's batch norm use running statistics, or (``train``) those of the batch, as DAFormer's code does;
    dropout stays off in both."""
