"""A network of another library, listened to at its classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from segrefinery.core.resize import bilinear
from segrefinery.models.foreign.families import Tap
from segrefinery.models.padding import pad_to_multiple, unpad
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
        multiple: int = 1,
        square: bool = False,
        arguments: Mapping[str, Any] | None = None,
        bgr: bool = False,
    ) -> None:
        """
        Args:
            module: called with B x 3 x H x W images.
            encoder: dotted name of the part that was pre-trained.
            auxiliary: a second classifier, if there is one.
            multiple: images are padded to multiples of this. square: and to squares.
            arguments: further arguments of the module's ``forward``.
            bgr: the module wants blue first.
        """
        super().__init__()
        self.module, self.num_classes = module, num_classes
        self.tap, self.auxiliary, self.encoder_name = tap, auxiliary, encoder
        self.largest_stride, self.square = multiple, square
        self.arguments, self.bgr = dict(arguments or {}), bgr
        self.feature_channels = self._channels(tap)
        self.level_channels = (self.feature_channels,)
        self.learner_channels = (self.feature_channels, *([self._channels(auxiliary)] if auxiliary else []))

    def _channels(self, tap: Tap) -> int:
        layer: Any = self.module.get_submodule(tap.features)
        return layer.in_channels

    def forward(self, image: Tensor) -> Prediction:
        image = image.flip(1) if self.bgr else image
        padded = pad_to_multiple(image, self.largest_stride, self.square)
        taps = [tap for tap in (self.tap, self.auxiliary) if tap]
        with listening(self.module, taps) as heard:
            self.module(padded, **self.arguments)
        size, whole = image.shape[-2:], padded.shape[-2:]
        maps = (
            (unpad(logits, whole, size), unpad(features, whole, size))
            for logits, features in (heard[tap] for tap in taps)
        )
        return Prediction.of([Learner(logits, features) for logits, features in maps])

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.module.get_submodule(self.encoder_name).parameters())


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
