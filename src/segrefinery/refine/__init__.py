"""The heart: a folder for each method, a file for each small idea; formulas are pure functions, refiners are modules.

``REFINERS`` is all there is: the name a recipe uses -> the settings that build the refiner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.core.settings import choose
from segrefinery.refine.entropy_mixture.settings import EntropyMixtureSettings
from segrefinery.refine.implicit_rectification.settings import ImplicitRectificationSettings
from segrefinery.refine.pixel_attention.settings import PixelAttentionSettings
from segrefinery.refine.prototypes.settings import PrototypesSettings
from segrefinery.refine.refinement_network.settings import RefinementNetworkSettings
from segrefinery.refine.self_labeling.settings import SelfLabelingSettings
from segrefinery.refine.settings import (
    ClassBalancedSettings,
    ConfidenceShareSettings,
    ConfidenceThresholdSettings,
    FeatureDistanceSettings,
    InstanceAdaptiveSettings,
    MaskedConsistencySettings,
    PixelContrastSettings,
    RefinerSettings,
    TetherSettings,
)

if TYPE_CHECKING:
    from segrefinery.refine.base import NoSource, PseudoLabels, Refiner, SourceStep, Step, TargetStep

__getattr__ = looked_up(__name__, by_module(base="NoSource PseudoLabels Refiner SourceStep Step TargetStep"))

REFINERS: dict[str, type[RefinerSettings]] = {
    "confidence_threshold": ConfidenceThresholdSettings,
    "confidence_share": ConfidenceShareSettings,
    "class_balanced": ClassBalancedSettings,
    "instance_adaptive": InstanceAdaptiveSettings,
    "entropy_mixture": EntropyMixtureSettings,
    "prototypes": PrototypesSettings,
    "self_labeling": SelfLabelingSettings,
    "refinement_network": RefinementNetworkSettings,
    "implicit_rectification": ImplicitRectificationSettings,
    # These leave the labels as they are and add a loss.
    "pixel_attention": PixelAttentionSettings,
    "pixel_contrast": PixelContrastSettings,
    "masked_consistency": MaskedConsistencySettings,
    "feature_distance": FeatureDistanceSettings,
    "tether": TetherSettings,
}


def parse_chain(value: Any) -> dict[str, RefinerSettings]:
    """An ordered chain from a recipe: a list of names and single-key mappings, or one mapping name -> settings.

    Raises:
        SegRefineryError: an unknown refiner; ValueError: as ``by_name``.
    """
    if isinstance(value, list | tuple):
        value = by_name(value)
    if not isinstance(value, Mapping):
        raise ValueError("refine is a list of refiners")
    chain: dict[str, RefinerSettings] = {}
    for name, settings in value.items():
        kind = choose(REFINERS, name, "refiner")
        if settings is not False:  # `name: false` switches a refiner off, for instance from the command line
            chain[name] = settings if isinstance(settings, kind) else kind.model_validate(settings or {})
    return chain


def by_name(items: Sequence[Any]) -> dict[str, Any]:
    """A chain that is a list of names and single-key mappings as one mapping, in order.

    Raises:
        ValueError: an item is neither, or a name stands there twice.
    """
    chain: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, str) and not (isinstance(item, Mapping) and len(item) == 1):
            raise ValueError(f"each refiner is a name or 'name: settings', got {item!r}")
        ((name, settings),) = [(item, {})] if isinstance(item, str) else item.items()
        if name in chain:
            raise ValueError(f"refiner {name!r} occurs twice")
        chain[name] = {} if settings is None else settings
    return chain


RefinerChain = Annotated[dict[str, SerializeAsAny[RefinerSettings]], BeforeValidator(parse_chain)]

__all__ = [
    "REFINERS", "NoSource", "PseudoLabels", "Refiner", "RefinerChain", "RefinerSettings", "SourceStep", "Step",
    "TargetStep",
]  # fmt: skip
