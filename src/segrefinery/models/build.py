"""How a network is made from settings."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.models.bands import widen
from segrefinery.models.networks import NETWORKS, ModelSettings, Network, network, network_settings
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.settings import TENSORS
from segrefinery.models.states import MissingWeights, hub_file, load_weights

__all__ = ["NETWORKS", "ModelSettings", "Network", "build_model", "network", "network_settings"]

log = logging.getLogger(__name__)


def build_model(settings: ModelSettings, num_classes: int) -> Segmenter:
    """The network that the settings name, with its weights.

    Raises:
        SegRefineryError: unknown name or option, a missing library, or weights that are not to be had or do not fit.
    """
    row = network(settings.name)
    weights = settings.weights or ("imagenet" if row.pretrained else "none")
    if weights == "imagenet" and not row.pretrained:
        raise SegRefineryError(f"there are no imagenet weights for {settings.name}: set weights: none, or a path.")
    try:
        model = row.build(num_classes, settings.network_settings(), weights == "imagenet")
    except MissingWeights as error:
        otherwise = "or set weights: none to train from random weights"
        raise MissingWeights(f"{str(error).rstrip('.')}, {otherwise}.") from error
    if settings.bands != 3:
        widen(model, settings.bands, settings.name)
    if weights not in ("imagenet", "none"):
        path = hub_file(weights, TENSORS) if weights.startswith("hf://") else Path(weights)
        load_weights(model, path)
        log.info("weights of %s from %s", settings.name, path)
    # Every copy, map and gradient follows the layout of the weights.
    return model.to(memory_format=torch.channels_last) if model.channels_last else model
