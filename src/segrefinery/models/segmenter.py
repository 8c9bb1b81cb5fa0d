"""The words every network speaks: ``Segmenter``, ``Prediction`` and ``Learner``."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segrefinery.core.pixels import IMAGENET, Normalization, renormalize


@dataclass
class Learner:
    """One of the classifiers whose opinions a refiner may weigh against each other.

    Attributes:
        logits: B x C x h x w class logits, on the learner's own grid.
        latent: B x D x h x w what its last layer read.
        box: the part of the image it sees as (top, left, bottom, right) in fractions of it; by default the whole.
        share: B x C x h x w (of any size) over the box: how much of the prediction the network itself gives to this
            learner, for each class, where it has an opinion of that (HRDA's scale attention); else None.
        aligned: whether the outermost cells lie in the corner pixels; otherwise cells tile the box.
    """

    logits: Tensor
    latent: Tensor
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    share: Tensor | None = None
    aligned: bool = False


@dataclass
class Prediction:
    """What a network says of a batch of images, at its own stride.

    Attributes:
        logits: B x C x h x w.
        features: B x D x h x w, what the classifier read.
        levels: the encoder's feature maps, finest first, each B x D_i x h_i x w_i; by default the features.
        learners: the classifiers to be weighed, the main one first; by default it alone.
        aligned: of logits, features and levels, as in ``Learner``; whoever enlarges a map, or shrinks a label to one,
            asks.
    """

    logits: Tensor
    features: Tensor
    levels: Sequence[Tensor] = ()
    learners: Sequence[Learner] = ()
    aligned: bool = False

    def __post_init__(self) -> None:
        self.levels = self.levels or (self.features,)
        self.learners = self.learners or (Learner(self.logits, self.features, aligned=self.aligned),)

    @classmethod
    def of(cls, learners: Sequence[Learner], levels: Sequence[Tensor] = ()) -> Prediction:
        """What a network says whose opinion is that of its first learner."""
        return cls(learners[0].logits, learners[0].latent, levels, learners, learners[0].aligned)

    @property
    def aux_logits(self) -> Tensor | None:
        """B x C x h' x w' of the second learner, or None where there is but one."""
        return self.learners[1].logits if len(self.learners) > 1 else None


class Segmenter(nn.Module, ABC):
    """Any network with ``forward(image) -> Prediction``; the attributes tell refiners how wide it is.

    Attributes:
        num_classes: C.
        feature_channels: D of ``Prediction.features``.
        level_channels: channels of each of ``Prediction.levels``.
        learner_channels: channels of ``latent`` of each of ``Prediction.learners``.
        normalization: mean and deviation of the images that it reads; those of its pre-training.
        largest_stride: pixels a cell of its coarsest level; a training crop is at least as large.
        one_size: why it can be written as a graph for images of one size alone; None where any size goes.
        graph_multiple, graph_least: what the sides of images are multiples of, and at least, in a graph for more than
            one size.
        channels_last: whether its weights are to lie with the channels last in memory, which its maps then do too.
    """

    num_classes: int
    feature_channels: int
    level_channels: tuple[int, ...]
    learner_channels: tuple[int, ...]
    normalization: Normalization = IMAGENET
    largest_stride: int = 1
    one_size: str | None = None
    graph_multiple: int = 1
    graph_least: int = 1
    channels_last: bool = False

    @abstractmethod
    def forward(self, image: Tensor) -> Prediction:
        """Segment a batch: B x bands x H x W normalised images of any size."""

    def levels(self, image: Tensor) -> Sequence[Tensor]:
        """``Prediction.levels`` alone; a network that can leave out its heads, or most of its work, overrides this."""
        return self(image).levels

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that start from pre-trained weights and train at the base rate; all others are heads."""
        return []

    def layers_above(self) -> dict[int, int] | None:
        """How many layers lie above each backbone parameter, by its ``id``: 0 for the last block, most for what
        precedes the first; None where that is not known."""
        return None


def bands_read(network: nn.Module) -> int:
    """How many bands the images of a network have."""
    return len(normalization_of(network).mean)


def normalization_of(network: nn.Module) -> Normalization:
    """How the images of a segmenter are normalised, or of the one inside a predictor that refiners built around it."""
    segmenters = (module for module in network.modules() if isinstance(module, Segmenter))
    segmenter = next(segmenters, None)
    return IMAGENET if segmenter is None else segmenter.normalization


def reading(network: Segmenter, images: Normalization) -> Segmenter:
    """A copy of a segmenter whose calls take images that are normalised otherwise than it wants them, as those of its
    student are where that is another network."""
    wanted = network.normalization

    def convert(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return renormalize(inputs[0], images, wanted), *inputs[1:]

    network = copy.deepcopy(network)
    network.register_forward_pre_hook(convert)
    return network
