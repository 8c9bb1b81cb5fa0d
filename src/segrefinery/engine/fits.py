"""Whether a network goes with what a stage does with it."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.transforms import DataSettings
from segrefinery.models import ModelSettings, networks
from segrefinery.models.batch_norm import BatchNorm
from segrefinery.models.segmenter import Segmenter, bands_read
from segrefinery.refine.settings import FeatureDistanceSettings
from segrefinery.stages.settings import StageSettings

log = logging.getLogger(__name__)


def refuse_one_learner(name: str, settings: StageSettings, network: Segmenter, model: str) -> None:
    """Refuse a stage that compares a network's two classifiers where there is one: the mixture of one is what it says
    anyway, and its variance nothing.

    Args:
        model: the network's name.

    Raises:
        SegRefineryError: names the setting, and what to take in its place.
    """
    what = settings.compares_learners
    if what is None or len(network.learner_channels) > 1:
        return
    instead = f"{what}=cross_entropy" if what == "target_loss" else f"{what}=false"
    raise SegRefineryError(
        f"stages.{name}.{what}: compares the two classifiers of a network, and {model} has one; leave it out (--set "
        f"stages.{name}.{instead}), or take a network with a second one: transformers' UPerNet or BEiT, torchvision's "
        "DeepLabV3 or FCN, or one of ours with --set model.options.auxiliary=true"
    )


def refuse_unfit_batches(
    name: str, settings: StageSettings, network: Segmenter, sets: tuple[DataSettings, ...], parts: int
) -> None:
    """Say what is wrong with a stage's crops and batches.

    One image is enough for batch norm, for its pixels are many values, as AdaptSegNet and its followers train; so that
    is only said. One cell of one image is no statistic.

    Args:
        sets: how source and target images are cropped and batched, where the stage does not say.
        parts: into how many parts a batch is split (ranks and accumulation).

    Raises:
        SegRefineryError: a crop is smaller than the network's largest stride, or a channel has one value in a batch.
    """
    stride = network.largest_stride
    for field, data in zip(("data", "target_data"), sets):
        crop, batch = settings.crop or data.crop, settings.batch or data.batch
        where = f"stages.{name}" if settings.crop else field
        if min(crop) < stride:
            raise SegRefineryError(
                f"{where}.crop: {crop[0]} x {crop[1]} pixels are less than one cell of the network's coarsest level; "
                f"set at least {stride} x {stride}"
            )
        if batch > parts or not learns_statistics(network):
            continue
        field = f"stages.{name}.batch" if settings.batch else f"{field}.batch"
        if max(crop) <= stride or pools_to_one_cell(network, crop):
            raise SegRefineryError(
                f"{field}: batch norm has one value a channel in one image of {crop[0]} x {crop[1]} pixels; set a "
                f"batch of at least {2 * parts}"
                + (f", or a crop of at least {2 * stride} x {2 * stride}" if max(crop) <= stride else "")
            )
        log.warning("%s: batch norm learns from one image at a time; a batch of %d is steadier", field, 2 * parts)


@torch.no_grad()
def pools_to_one_cell(network: nn.Module, crop: tuple[int, int]) -> bool:
    """Whether a batch norm sees a single cell of an image however large it is, behind a pooling of the whole."""
    probe = copy.deepcopy(network).train()
    parameter = next(probe.parameters())
    try:
        probe(torch.zeros(1, bands_read(network), *crop, device=parameter.device, dtype=parameter.dtype))
    except (ValueError, SegRefineryError) as error:
        if "more than 1 value per channel" in str(error):
            return True
        if isinstance(error, SegRefineryError):  # the module is the user's, and refuses such a batch
            raise
    return False


def learns_statistics(network: nn.Module) -> bool:
    """Whether a batch norm of the network uses the statistics of its batch in training."""
    was_training = network.training
    network.train()
    norms = (module for module in network.modules() if isinstance(module, BatchNorm))
    learns = any(module.training for module in norms)
    network.train(was_training)
    return learns


def warn_of_random_reference(name: str, settings: StageSettings, model: ModelSettings) -> None:
    """Say so where a stage holds a new network near what its encoder knew before, which is nothing.

    Args:
        model: of a network that was not brought.
    """
    random = model.weights == "none" or (model.weights is None and not networks.network(model.name).pretrained)
    for key, refiner in settings.chain.items() if random else ():
        if isinstance(refiner, FeatureDistanceSettings) and refiner.weight:
            log.warning(
                "stages.%s.refine.%s: holds the encoder near what its pre-training taught, and that of %s begins with "
                "random weights; name a network with published weights, or take it out with "
                "--set stages.%s.refine.%s=false",
                name, key, model.name, name, key,
            )  # fmt: skip
