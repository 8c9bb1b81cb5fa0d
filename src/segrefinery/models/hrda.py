"""HRDA: any segmenter at two scales, context and detail, fused by a learned attention (Hoyer et al., ECCV 2022).

context = network(the whole crop at half size)          detail = network(a box of the crop at full size)
logits  = up2((1 - a) * context) + up2(a) * detail      a = sigmoid(attention(context levels)), 0 outside the box
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.resize import bilinear
from segrefinery.models.heads import HeadSettings, SegFormerHead
from segrefinery.models.networks import network, network_settings
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.settings import HRDASettings

WHOLE = (0.0, 0.0, 1.0, 1.0)


class HRDA(Segmenter):
    """A segmenter at two scales. Encoder and head are shared; only the attention is new.

    In training the detail is one random box for the whole batch, drawn from the global generator; ``aux_logits`` are
    the detail's, on the grid of the box that ``learners[1].box`` tells. In evaluation the detail slides over the whole
    image in boxes half their side apart, averaged by count, and its box is the whole image.

    ``features`` and ``levels`` are the context's, the former at the size of the logits. A box starts at a multiple of
    twice the network's stride, so that it lies on the grids of both scales (of 8 pixels for stride 4, as in the paper).
    """

    def __init__(self, segmenter: Segmenter, settings: HRDASettings | None = None) -> None:
        super().__init__()
        self.settings = settings or HRDASettings()
        self.segmenter = segmenter
        self.num_classes = segmenter.num_classes
        self.normalization = segmenter.normalization
        self.largest_stride = segmenter.largest_stride
        self.graph_least = self.settings.detail + 1
        if self.settings.window is not None:
            self.one_size = "looks at a large image in windows, as many as its size asks for"
        self.channels_last = segmenter.channels_last
        self.feature_channels = segmenter.feature_channels
        self.level_channels = tuple(segmenter.level_channels)
        self.learner_channels = (segmenter.feature_channels, segmenter.feature_channels)
        head = HeadSettings(norm=self.settings.attention_norm)
        self.attention = SegFormerHead(self.level_channels, self.num_classes, self.settings.attention_width, head)

    def forward(self, image: Tensor) -> Prediction:
        """Segment B x bands x H x W images.

        Raises:
            SegRefineryError: in training, a crop that is smaller than the detail box; a network whose stride does not
                divide ``settings.divisor``.
        """
        image = self._fit(image)
        window = self.settings.window
        if not self.training and window is not None and max(image.shape[-2:]) > window:
            logits, context, context_features, share, detail, detail_features = self.slide(
                lambda part: _flat(self._look(part)), image, window
            )
            views = _Views(logits, context, context_features, share, detail, detail_features, WHOLE, self.levels(image))
        else:
            views = self._look(image)
        return Prediction(
            views.logits,
            bilinear(views.context_features, views.logits.shape[-2:]),
            levels=views.levels,
            learners=[
                Learner(views.context, views.context_features, share=1 - views.share),
                Learner(views.detail, views.detail_features, views.box, share=_crop(views.share, views.box)),
            ],
        )

    def levels(self, image: Tensor) -> Sequence[Tensor]:
        return self.segmenter.levels(_half(self._fit(image)))

    def backbone_parameters(self) -> list[nn.Parameter]:
        return self.segmenter.backbone_parameters()

    def layers_above(self) -> dict[int, int] | None:
        return self.segmenter.layers_above()

    def _look(self, image: Tensor) -> _Views:
        """Both scales of one window."""
        context = self.segmenter(_half(image))
        share = bilinear(self.attention(context.levels)[0].sigmoid(), context.logits.shape[-2:])
        stride = self._stride(image, context.logits)
        height, width = image.shape[-2:]
        if self.training:
            box = self._draw_box(height, width, 2 * stride)
            detail = self.segmenter(_crop(image, box))
            logits, features = detail.logits, detail.features
            inside = torch.zeros_like(share[:1, :1])
            _crop(inside, box).fill_(1)
            share = share * inside
        else:
            box = WHOLE
            logits, features = self.slide(self._detail, image, self.settings.detail)
        fused = _double((1 - share) * context.logits)
        doubled = _double(share)
        padded = logits if box == WHOLE else _place(logits, doubled, box)
        fused = fused + doubled * padded
        return _Views(fused, context.logits, context.features, share, logits, features, box, context.levels)

    def slide(self, function: Callable[[Tensor], Sequence[Tensor]], image: Tensor, side: int) -> list[Tensor]:
        """Box after box, so that memory holds one; see ``slide``."""
        return slide(function, image, side)

    def _detail(self, image: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.segmenter(image)
        return prediction.logits, prediction.features

    def _fit(self, image: Tensor) -> Tensor:
        """Enlarge an image to the next multiple of twice the divisor."""
        return bilinear(image, self.fitted_size(image))

    def fitted_size(self, image: Tensor) -> tuple[int, int]:
        """Height and width that an image is enlarged to."""
        multiple = 2 * self.settings.divisor
        height, width = (-(-side // multiple) * multiple for side in image.shape[-2:])
        return height, width

    def _stride(self, image: Tensor, context: Tensor) -> int:
        stride = image.shape[-2] // (2 * context.shape[-2])
        divides = stride > 0 and self.settings.divisor % stride == 0
        if not divides or any(
            side != 2 * stride * cells for side, cells in zip(image.shape[-2:], context.shape[-2:], strict=True)
        ):
            raise SegRefineryError(
                f"hrda: the network gives {context.shape[-2]} x {context.shape[-1]} cells for a context image of "
                f"{image.shape[-2] // 2} x {image.shape[-1] // 2} pixels, which is no stride that divides "
                f"{self.settings.divisor}. Set hrda's divisor to a multiple of the network's stride."
            )
        return stride

    def _draw_box(self, height: int, width: int, step: int) -> tuple[float, float, float, float]:
        side = self.settings.detail
        if side > min(height, width):
            raise SegRefineryError(
                f"hrda: the detail box of {side} x {side} pixels is larger than the crop of {height} x {width}. "
                "Choose a smaller detail, or a larger crop (the paper's is twice the detail)."
            )
        top, left = (int(torch.randint((full - side) // step + 1, ())) * step for full in (height, width))
        return top / height, left / width, (top + side) / height, (left + side) / width


@dataclass
class _Views:
    """What both scales saw in one window: B x C logits, B x D features, the attention on the context's grid."""

    logits: Tensor
    context: Tensor
    context_features: Tensor
    share: Tensor
    detail: Tensor
    detail_features: Tensor
    box: tuple[float, float, float, float]
    levels: Sequence[Tensor]


def _flat(views: _Views) -> list[Tensor]:
    return [views.logits, views.context, views.context_features, views.share, views.detail, views.detail_features]


def slide(function: Callable[[Tensor], Sequence[Tensor]], image: Tensor, side: int) -> list[Tensor]:
    """Apply a function to overlapping windows of an image and average its maps by count.

    Args:
        function: B x bands x h x w -> maps B x . x h/s x w/s; every stride s must divide half of ``side``.
        image: B x bands x H x W.
        side: of the windows, which lie ``side // 2`` apart; the last ones end at the image's border. An image smaller
            than a window is one window.

    Returns:
        The maps of the whole image, B x . x H/s x W/s.
    """
    height, width = image.shape[-2:]
    rows, columns = _starts(height, side), _starts(width, side)
    if len(rows) == len(columns) == 1:
        return list(function(image))
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    for top in rows:
        for left in columns:
            part = image[..., top : top + side, left : left + side]
            for position, part_map in enumerate(function(part)):
                stride = part.shape[-2] // part_map.shape[-2]
                if position == len(sums):
                    sums.append(part_map.new_zeros(*part_map.shape[:2], height // stride, width // stride))
                    counts.append(part_map.new_zeros(1, 1, height // stride, width // stride))
                place = (
                    ...,
                    slice(top // stride, top // stride + part_map.shape[-2]),
                    slice(left // stride, left // stride + part_map.shape[-1]),
                )
                sums[position][place] += part_map
                counts[position][place] += 1
    return [total / count for total, count in zip(sums, counts, strict=True)]


def _starts(full: int, side: int) -> list[int]:
    last = max(full - side, 0)
    return sorted({*range(0, last, side // 2), last})


def _crop(pixels: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """The cells inside a box that lies on the grid."""
    if box == WHOLE:
        return pixels
    height, width = pixels.shape[-2:]
    top, left, bottom, right = box
    return pixels[..., round(top * height) : round(bottom * height), round(left * width) : round(right * width)]


def _place(part: Tensor, like: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """Zeros of the size of ``like`` around a part."""
    height, width = like.shape[-2:]
    top, left = round(box[0] * height), round(box[1] * width)
    return F.pad(part, (left, width - left - part.shape[-1], top, height - top - part.shape[-2]))


def _half(image: Tensor) -> Tensor:
    return bilinear(image, (image.shape[-2] // 2, image.shape[-1] // 2))


def _double(pixels: Tensor) -> Tensor:
    return bilinear(pixels, (2 * pixels.shape[-2], 2 * pixels.shape[-1]))


def around(num_classes: int, settings: HRDASettings, pretrained: bool, inner: str) -> HRDA:
    """HRDA around a network of the table, whose own options are ``settings.options``."""
    row = network(inner)
    inner_settings = network_settings(inner, {**row.inside_hrda, **settings.options})
    return HRDA(row.build(num_classes, inner_settings, pretrained), settings)
