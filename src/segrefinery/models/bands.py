"""Networks for images of other bands than red, green and blue: their first layer, widened or narrowed."""

from __future__ import annotations

from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import Normalization

FOREIGN = ("torchvision", "transformers", "wrapped")
"""Families of other libraries, whose networks take three bands here."""


def widen(network: nn.Module, bands: int, name: str) -> None:
    """Let a network of three bands read ``bands``, in place, as timm does it (``adapt_input_conv``): the weights of
    red, green and blue are repeated over the bands and scaled, so that what a filter sums up keeps its size; one band
    gets their sum.

    Raises:
        SegRefineryError: a network of another library.
    """
    if name.removeprefix("hrda:").partition(":")[0] in FOREIGN:
        raise SegRefineryError(
            f"model.name: {name} reads three bands, and the images have {bands}; take one of ours, for instance "
            "efficientnet_lite0 or daformer:resnet50, or name three bands in dataset.yaml"
        )
    from timm.models import adapt_input_conv  # here, for it takes seconds to import

    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3)
    given: Tensor = first.weight.detach()
    first.weight = nn.Parameter(adapt_input_conv(bands, given.clone()).to(given.dtype))
    first.in_channels = bands
    for part in network.modules():
        if hasattr(part, "normalization"):  # that of the pre-training speaks of three bands; data sets say their own
            part.normalization = Normalization((0.5,) * bands, (0.25,) * bands)  # pyright: ignore
