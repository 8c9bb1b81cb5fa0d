"""The table of networks: by which name a recipe asks for one, and what it may say of it.

Nothing here needs torch: a recipe is read without it. What builds a network is imported when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.lazy import later
from segrefinery.core.settings import Settings, choose
from segrefinery.models.foreign.families import MODELS, family_of
from segrefinery.models.settings import (
    DeepLabV2Settings,
    EfficientNetLiteSettings,
    FCN8sSettings,
    HRDASettings,
    MiTSettings,
    SegFormerSettings,
    SmallSettings,
    SMPSettings,
    Statistics,
    TimmSettings,
    TorchvisionSettings,
    TransformersSettings,
    ViTSettings,
)

if TYPE_CHECKING:
    from segrefinery.models.segmenter import Segmenter

_HERE = "segrefinery.models"
SIZES = ("lite0", "lite1", "lite2")
"""Of EfficientNet-Lite."""
MIT_SIZES = ("b0", "b1", "b2", "b3", "b4", "b5")
"""Of the Mix Transformer."""


@dataclass(frozen=True)
class Network:
    """A row of the table.

    Attributes:
        settings: the class that validates ``ModelSettings.options``.
        build: ``build(num_classes, settings, pretrained)``; of ours, what is imported when it is called.
        pretrained: whether published encoder weights exist.
        inside_hrda: options it has by default there: a box of the image must be a box of cells, and the detail is the
            second learner.
        statistics: whose statistics its batch norms keep in self-training, where a recipe does not say: as published,
            both domains'; of the small ones, by which few images pass, the target's
            (``benchmarks/results/norm_statistics.md``).
    """

    settings: type[Settings]
    build: Callable[..., Segmenter]
    pretrained: bool = True
    inside_hrda: Mapping[str, Any] = field(default_factory=dict)
    statistics: Statistics = "both"


NETWORKS: dict[str, Network] = {
    "small": Network(SmallSettings, later(f"{_HERE}.small:build"), pretrained=False, statistics="target"),
    **{
        f"efficientnet_{size}": Network(
            EfficientNetLiteSettings,
            later(f"{_HERE}.efficientnet:efficientnet_lite", size=size),
            inside_hrda={"auxiliary": False},
            statistics="target",
        )
        for size in SIZES
    },
    "deeplabv2_resnet101": Network(
        DeepLabV2Settings, later(f"{_HERE}.deeplab:DeepLabV2"), inside_hrda={"ceil_pooling": False, "auxiliary": False}
    ),
    "fcn8s_vgg16": Network(FCN8sSettings, later(f"{_HERE}.fcn8s:FCN8s")),
    **{
        f"segformer_{size}": Network(SegFormerSettings, later(f"{_HERE}.encoders:segformer", size=size))
        for size in MIT_SIZES
    },
    **{
        f"daformer_{size}": Network(MiTSettings, later(f"{_HERE}.encoders:daformer", encoder=size))
        for size in MIT_SIZES
    },
    **{
        f"dinov2_{size}{suffix}": Network(
            ViTSettings, later(f"{_HERE}.vit:vit", encoder=f"vit_{size}_patch14_{register}dinov2.lvd142m")
        )
        for size in ("small", "base", "large")
        for suffix, register in (("", ""), ("_reg", "reg4_"))
    },
}

# Networks whose name goes on: what follows the colon is looked up in another library.
PATTERNS = (
    "daformer:TIMM_ENCODER",
    "vit:TIMM_ENCODER",
    "smp:ARCHITECTURE/ENCODER",
    "hrda:NETWORK",
    "torchvision:MODEL",
    "transformers:MODEL_TYPE",
)


def network(name: str) -> Network:
    """The table's row for a name, or one made for a pattern such as ``smp:...``.

    Raises:
        SegRefineryError: unknown name; the message prints the table.
    """
    family, colon, rest = name.partition(":")
    if family == "daformer" and colon and rest:
        return Network(TimmSettings, later(f"{_HERE}.encoders:daformer", encoder=rest))
    if family == "vit" and colon and rest:
        return Network(ViTSettings, later(f"{_HERE}.vit:vit", encoder=rest))
    if family == "smp" and colon:
        architecture, slash, encoder = rest.partition("/")
        if not (slash and architecture and encoder):
            raise SegRefineryError(f"model name {name!r}: expected smp:ARCHITECTURE/ENCODER, as in smp:unet/resnet34.")
        return Network(SMPSettings, later(f"{_HERE}.foreign.smp:SMP", architecture=architecture, encoder=encoder))
    if family == "torchvision" and colon and rest:
        choose(MODELS, rest, "torchvision segmentation model")
        return Network(TorchvisionSettings, later(f"{_HERE}.foreign.torchvision:build", name=rest))
    if family == "transformers" and colon and rest:
        family_of(rest)
        return Network(
            TransformersSettings, later(f"{_HERE}.foreign.transformers:build", model_type=rest), pretrained=False
        )
    if family == "wrapped" and colon and rest:
        return Network(Settings, later(f"{_HERE}.foreign.wrapped:refused", name=rest), pretrained=False)
    if family == "hrda" and colon and rest:
        inner = network(rest)
        return Network(
            HRDASettings,
            later(f"{_HERE}.hrda:around", inner=rest),
            pretrained=inner.pretrained,
            statistics=inner.statistics,
        )
    known: Mapping[str, Network | None] = {**NETWORKS, **dict.fromkeys(PATTERNS)}
    row = choose(known, name, "model")
    if row is None:
        raise SegRefineryError(f"model name {name!r}: put the real names in place of the capitals.")
    return row


class ModelSettings(Settings):
    """Which network, from which weights."""

    name: str = "small"
    """Names a network of the table, ``daformer:TIMM_ENCODER``, ``vit:TIMM_ENCODER``, ``smp:ARCHITECTURE/ENCODER``,
    ``torchvision:MODEL`` or ``transformers:MODEL_TYPE``; HRDA around it: ``hrda:NAME``."""
    weights: str | None = None
    """Starts from the encoder's published pre-training (``imagenet``; DINOv2: LVD-142M), from random weights
    (``none``), or from weights of the whole network (``hf://ORG/REPO`` or a path: safetensors or torch, their classes
    matched by the ``config.json`` beside). By default ``imagenet`` where the network has it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Sets the network's own options."""
    bands: int = Field(default=3, ge=1)
    """Says how many bands the images have that it reads; a run takes it from the source's ``bands``."""

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        try:
            self.network_settings()
        except SegRefineryError as error:
            raise ValueError(str(error)) from error
        return self

    def network_settings(self) -> Settings:
        """``options`` as the network's own settings class.

        Raises:
            SegRefineryError: unknown network, unknown option or wrong value.
        """
        settings = network_settings(self.name, self.options)
        if isinstance(settings, HRDASettings):
            network_settings(self.name.partition(":")[2], settings.options)
        return settings


class RunModelSettings(ModelSettings):
    """Which network a run trains, or which trained model it starts from."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    start: str | None = Field(default=None, alias="from")
    """Starts from a trained model in place of a new network: a run or model folder, ``hf:ORG/REPO``, a folder of
    transformers or segmentation_models_pytorch, ``torchvision:NAME``, or a checkpoint file of the network ``name``."""
    classes: tuple[str, ...] | None = None
    """Names the classes of ``from`` in the order of its logits, if it names none or others."""

    @model_validator(mode="after")
    def _classes_of_a_model(self) -> RunModelSettings:
        if self.classes is not None and self.start is None:
            raise ValueError("classes: they name those of a trained model; name that too, as from")
        return self

    @property
    def network(self) -> ModelSettings:
        """The network alone."""
        return ModelSettings(name=self.name, weights=self.weights, options=self.options, bands=self.bands)


def network_settings(name: str, options: Mapping[str, Any]) -> Settings:
    """A network's options as its own settings class; errors as in ``ModelSettings.network_settings``."""
    kind = network(name).settings
    try:
        return kind(**options)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(str(part) for part in ("options", *wrong["loc"]))
        raise SegRefineryError(f"{place}: {wrong['msg']} ({name}). Options: {', '.join(kind.model_fields)}.") from error
