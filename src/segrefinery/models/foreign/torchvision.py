"""torchvision's segmentation models, with their published weights or any others."""

from __future__ import annotations

from typing import Any

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import choose
from segrefinery.models.foreign.families import MODELS, Tap
from segrefinery.models.foreign.tapped import Tapped
from segrefinery.models.settings import TorchvisionSettings
from segrefinery.models.states import downloaded, load_state, read_state

_FCN_AUXILIARY = Tap("aux_classifier.4")


def build(num_classes: int, settings: TorchvisionSettings, pretrained: bool, name: str) -> Tapped:
    """``pretrained``: the backbone's ImageNet weights.

    Raises:
        SegRefineryError: no such model, or weights that cannot be fetched.
    """
    tap = choose(MODELS, name, "torchvision segmentation model")
    from torchvision.models import get_model  # here, for it takes seconds to import

    lraspp = name.startswith("lraspp")
    if lraspp and settings.auxiliary:
        raise SegRefineryError(f"options.auxiliary: {name} has no second classifier; leave it out")
    arguments: dict[str, Any] = {} if lraspp else {"aux_loss": settings.auxiliary}
    module: Any = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **arguments)
    if pretrained:
        url = _backbone_url(name)
        state = read_state(downloaded(url))
        expected = module.backbone.state_dict()
        prefix = "features." if "mobilenet" in name else ""  # its encoder is the classifier network's ``features``
        load_state(module.backbone, {key: state[prefix + key] for key in expected if prefix + key in state}, url)
    auxiliary = _FCN_AUXILIARY if settings.auxiliary else None
    return Tapped(module, num_classes, tap, "backbone", auxiliary=auxiliary)


def _backbone_url(name: str) -> str:
    from torchvision.models import get_model_weights

    backbone = name.partition("_")[2]
    return get_model_weights(backbone)["IMAGENET1K_V1"].url


def published(name: str) -> tuple[TorchvisionSettings, dict[str, Any], tuple[str, ...]]:
    """The published model: its settings, its tensors in our names, and its classes.

    Raises:
        SegRefineryError: no such model, or its weights cannot be fetched.
    """
    choose(MODELS, name, "torchvision segmentation model")
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["DEFAULT"]
    state = read_state(downloaded(weights.url))
    settings = TorchvisionSettings(auxiliary=any(key.startswith("aux_classifier.") for key in state))
    classes = tuple(str(name).removeprefix("__").removesuffix("__") for name in weights.meta["categories"])
    return settings, {f"module.{key}": value for key, value in state.items()}, classes
