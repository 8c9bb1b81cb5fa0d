"""Which models of other libraries we know, and where their parts lie. Read with a recipe, so without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose

WRAPPED = "start=segrefinery.models.wrap(module, number_of_classes)"
"""How a model that is not known here is handed over."""


@dataclass(frozen=True)
class Tap:
    """Where a classifier lies in a module, by dotted names.

    Attributes:
        features: the convolution whose input the features are.
        logits: the layer whose output the logits are; by default the same convolution.
    """

    features: str
    logits: str | None = None


_FCN = Tap("classifier.4")


MODELS: dict[str, Tap] = {
    "deeplabv3_resnet50": _FCN,
    "deeplabv3_resnet101": _FCN,
    "deeplabv3_mobilenet_v3_large": _FCN,
    "fcn_resnet50": _FCN,
    "fcn_resnet101": _FCN,
    # its logits are a sum of two classifiers'
    "lraspp_mobilenet_v3_large": Tap("classifier.high_classifier", "classifier"),
}


@dataclass(frozen=True)
class Family:
    """Where the parts of one architecture lie.

    Attributes:
        encoder: what was pre-trained. tap, auxiliary: its classifiers.
        stride: pixels a cell of its coarsest level.
        square: it takes as many rows of patches as columns alone.
        arguments: of ``forward``.
    """

    encoder: str
    tap: Tap
    auxiliary: Tap | None = None
    stride: int = 32
    square: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "segformer": Family("segformer", Tap("decode_head.classifier")),
    "upernet": Family("backbone", Tap("decode_head.classifier"), Tap("auxiliary_head.classifier")),
    "beit": Family(
        "beit",
        Tap("decode_head.classifier"),
        Tap("auxiliary_head.classifier"),
        stride=16,
        arguments={"interpolate_pos_encoding": True},
    ),
    # DPT enlarges twice behind its classifier, and counts that as its output
    "dpt": Family("dpt", Tap("head.head.4", "head"), Tap("auxiliary_head.head.4", "auxiliary_head"), square=True),
    "mobilevit": Family("mobilevit", Tap("segmentation_head.classifier.convolution")),
    "mobilevitv2": Family("mobilevitv2", Tap("segmentation_head.classifier.convolution")),
    "mobilenet_v2": Family("mobilenet_v2", Tap("segmentation_head.classifier.convolution")),
}
"""By ``model_type`` of the configuration."""


def family_of(model_type: str) -> Family:
    """Raises:
    SegRefineryError: transformers has no such segmentation model, or we do not know where its classifier lies."""
    try:
        return choose(FAMILIES, model_type, "transformers segmentation model")
    except SegRefineryError as error:
        raise SegRefineryError(f"{error} Others that put out logits are adapted in Python, with {WRAPPED}.") from error
