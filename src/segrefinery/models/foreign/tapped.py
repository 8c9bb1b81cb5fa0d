"""A network of another library, listened to at its classifier."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.models.foreign.families import Tap
from segrefinery.models.foreign.trial import takes
from segrefinery.models.padding import differ, pad_to_least, pad_to_multiple, unpad
from segrefinery.models.segmenter import Learner, Prediction, Segmenter


class Tapped(Segmenter):
    """Another library's network as it is: features are what its classifier reads, logits what it says, before the
    library enlarges them. The module keeps its own names, so that its weights go back to its library as they are."""

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        tap: Tap,
        encoder: str,
        *,
        auxiliary: Tap | None = None,
        stride: int = 1,
        least: int = 1,
        patch: int | None = None,
        arguments: Mapping[str, Any] | None = None,
        bgr: bool = False,
    ) -> None:
        """
        Args:
            module: called with B x 3 x H x W images.
            encoder: dotted name of the part that was pre-trained.
            auxiliary: a second classifier, if there is one.
            stride: pixels a cell of its coarsest level.
            least: the sides of images that it takes; smaller ones are padded (see ``least_side``).
            patch: of a module that takes as many rows of patches as columns alone, the side of one; other images are
                padded to squares of multiples of ``stride``.
            arguments: further arguments of the module's ``forward``.
            bgr: the module wants blue first.
        """
        super().__init__()
        self.module, self.num_classes = module, num_classes
        self.tap, self.auxiliary, self.encoder_name = tap, auxiliary, encoder
        self.largest_stride, self.least, self.patch = stride, least, patch
        self.graph_multiple, self.graph_least = stride if patch else 1, least  # where padding is the same for all sizes
        self.arguments, self.bgr = dict(arguments or {}), bgr
        self.feature_channels = self._channels(tap)
        self.level_channels = (self.feature_channels,)
        self.learner_channels = (self.feature_channels, *([self._channels(auxiliary)] if auxiliary else []))

    def _channels(self, tap: Tap) -> int:
        layer: Any = self.module.get_submodule(tap.features)
        return layer.in_channels

    def forward(self, image: Tensor) -> Prediction:
        image = image.flip(1) if self.bgr else image
        padded = self._taken(image)
        taps = [tap for tap in (self.tap, self.auxiliary) if tap]
        with listening(self.module, taps) as heard:
            self.module(padded, **self.arguments)
        size, whole = image.shape[-2:], padded.shape[-2:]
        maps = (
            (unpad(logits, whole, size), unpad(features, whole, size))
            for logits, features in (heard[tap] for tap in taps)
        )
        return Prediction.of([Learner(logits, features) for logits, features in maps])

    def _taken(self, image: Tensor) -> Tensor:
        """The image as it is, so that the module says of it what it says in its own library; padded by repeating its
        border where the module would refuse it, or take 2 x 8 patches for 4 x 4."""
        height, width = image.shape[-2:]
        if self.patch and differ(height // self.patch, width // self.patch):
            return pad_to_multiple(image, self.largest_stride, square=True)
        return pad_to_least(image, self.least)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.module.get_submodule(self.encoder_name).parameters())


def least_side(module: nn.Module, arguments: Mapping[str, Any], most: int) -> int:
    """The side of the smallest square image that a module takes, up to ``most``, found by trying: a padding that is
    not needed would change what it says."""
    return bisect_left(range(1, most), True, key=lambda side: takes(module, side, side, **arguments)) + 1


@contextmanager
def listening(module: nn.Module, taps: list[Tap]) -> Iterator[dict[Tap, tuple[Tensor, Tensor]]]:
    """Within, a call of the module fills in each tap's logits and features, both on the grid of the logits.

    The hooks live for one call only: lasting ones would write into the original from every copy.
    """
    read: dict[str, Tensor] = {}
    said: dict[str, Tensor] = {}
    heard: dict[Tap, tuple[Tensor, Tensor]] = {}

    def reader(name: str) -> Any:
        return lambda _module, inputs: read.__setitem__(name, inputs[0])

    def sayer(name: str) -> Any:
        return lambda _module, _inputs, output: said.__setitem__(name, output)

    with ExitStack() as hooks:
        for tap in taps:
            source, end = module.get_submodule(tap.features), module.get_submodule(tap.logits or tap.features)
            hooks.callback(source.register_forward_pre_hook(reader(tap.features)).remove)
            hooks.callback(end.register_forward_hook(sayer(tap.logits or tap.features)).remove)
        yield heard
    for tap in taps:
        logits = said[tap.logits or tap.features]
        heard[tap] = logits, bilinear(read[tap.features], logits.shape[-2:])
