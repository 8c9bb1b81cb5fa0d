"""Under which licence the weights lie that a network starts from."""

from __future__ import annotations

import re

from segrefinery.models.networks import ModelSettings

MIT = "NVIDIA's, for research only (no commercial use): the MiT weights and code"
DINOV3 = "Meta's DINOv3 License, which asks for more than Apache-2.0 does: read it before you ship the weights"
_OURS = {"deeplabv2": "BSD-3-Clause", "fcn8s": "BSD-3-Clause", "efficientnet": "Apache-2.0", "dinov2": "Apache-2.0"}
FREE = ("apache-2.0", "mit", "bsd-3-clause")
"""Under which all lies that a default run touches, as timm writes them."""
UNKNOWN = "not known: see where they come from"


def licence_of(network: ModelSettings) -> str:
    """Of the pre-trained weights of a network, in words; of a network without any, Apache-2.0."""
    family, _, rest = network.name.partition(":")
    if family == "hrda":
        return licence_of(network.model_copy(update={"name": rest}))
    if network.weights == "none":
        return "Apache-2.0"
    if network.weights not in (None, "imagenet"):
        return UNKNOWN
    if family in ("daformer", "vit") and rest:
        return timm_licence(rest)
    if re.fullmatch(r"(segformer|daformer)_b\d", family):
        return MIT
    if family == "small":
        return "Apache-2.0"
    return _OURS.get(family.partition("_")[0], UNKNOWN)


def timm_licence(name: str) -> str:
    """What timm says of an encoder's weights."""
    import timm

    if "dinov3" in name:
        return DINOV3
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # weights that timm does not know
        return UNKNOWN
    return (config and config.license) or UNKNOWN
