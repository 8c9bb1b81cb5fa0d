"""Multi-level encoders from timm and transformers, and the segmenter that puts a head on one."""

from __future__ import annotations

import difflib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

from safetensors import SafetensorError
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.lazy import optional
from segrefinery.core.pixels import IMAGENET, Normalization
from segrefinery.models.daformer import DAFormerHead
from segrefinery.models.foreign.timm import forget_biases, image_multiple
from segrefinery.models.heads import AuxiliaryHead, SegFormerHead
from segrefinery.models.licence import FREE, MIT, timm_licence
from segrefinery.models.padding import pad_to_least, pad_to_multiple, unpad
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.settings import CONFIG, TENSORS, HeadSettings, MiTSettings, SegFormerSettings, TimmSettings
from segrefinery.models.states import damaged, downloaded, hub_file, in_hub_cache, missing_hub_weights, require_hub

log = logging.getLogger(__name__)

UNKNOWN_STATISTICS = (
    "the pixel mean and deviation of %s are not known, and ImageNet's are taken; data.pixel_mean and data.pixel_std "
    "set others"
)

# Embedding width and depths of the four stages, and width of SegFormer's head (Xie et al. 2021, tables 1 and 6).
_MIT = {
    "b0": (32, (2, 2, 2, 2)),
    "b1": (64, (2, 2, 2, 2)),
    "b2": (64, (3, 4, 6, 3)),
    "b3": (64, (3, 4, 18, 3)),
    "b4": (64, (3, 8, 27, 3)),
    "b5": (64, (3, 6, 40, 3)),
}
SEGFORMER_WIDTHS = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768}


class Encoder(nn.Module, ABC):
    """Images to feature maps, finest first; a subclass sets ``channels`` and the ``network`` and says how to call it.

    Attributes:
        channels: of each level.
        largest_stride: of the last level.
        multiple: images are padded to multiples of it, and the levels cut back to the image.
        least: of an encoder that reads images as they are, the sides that it takes at least; smaller ones are padded.
        normalization, channels_last: as in ``Segmenter``.
    """

    channels: tuple[int, ...]
    largest_stride: int = 32
    multiple: int = 32
    least: int | None = None
    normalization: Normalization = IMAGENET
    channels_last: bool = False
    network: nn.Module

    @abstractmethod
    def levels(self, image: Tensor) -> Sequence[Tensor]:
        """The feature maps of an image whose sides are multiples of ``multiple``, or at least ``least``."""

    def forward(self, image: Tensor) -> list[Tensor]:
        padded = pad_to_multiple(image, self.multiple) if self.least is None else pad_to_least(image, self.least)
        size, whole = image.shape[-2:], padded.shape[-2:]
        return [unpad(level, whole, size) for level in self.levels(padded)]


@cache
def warn_of_licence(name: str, licence: str) -> None:
    """Of weights that are not as free as what a default run touches; once, for a run builds several networks."""
    if licence.lower() not in FREE:
        log.warning("%s: the licence of its weights is %s", name, licence)


class MiT(Encoder):
    """SegFormer's Mix Transformer through transformers; strides 4, 8, 16, 32. Its licence is non-commercial.

    Images are read as they are, as the code of SegFormer, DAFormer, mmsegmentation and transformers reads them: a
    checkpoint of theirs says here what it says there.
    """

    least = 29  # eight cells at stride 4, of which the first attention's keys and values make one

    def __init__(self, size: str, pretrained: bool, drop_path: float = 0.1) -> None:
        super().__init__()
        transformers = optional("transformers", "MiT encoders need transformers", "segformer")
        width, depths = _MIT[size]
        self.channels = (width, 2 * width, 5 * width, 8 * width)
        config: dict[str, Any] = {"hidden_sizes": list(self.channels), "depths": list(depths)}
        if pretrained:
            warn_of_licence(f"MiT-{size.upper()}", MIT)
            repository = f"nvidia/mit-{size}"
            cached = in_hub_cache(repository, CONFIG)
            if not cached:
                require_hub(repository)
            try:
                self.network = transformers.SegformerModel.from_pretrained(
                    repository, drop_path_rate=drop_path, local_files_only=bool(cached)
                )
            except (OSError, ValueError) as error:
                raise missing_hub_weights(repository) from error
            except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
                raise damaged(repository, error) from error
        else:
            self.network = transformers.SegformerModel(transformers.SegformerConfig(**config, drop_path_rate=drop_path))

    def levels(self, image: Tensor) -> Sequence[Tensor]:
        return self.network(image, output_hidden_states=True).hidden_states


class TimmEncoder(Encoder):
    """The last four levels of any multi-level timm encoder."""

    def __init__(self, name: str, pretrained: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if name.startswith(("swin_", "swinv2_")):
            options["strict_img_size"] = False
        self.network = create_timm(name, pretrained, features_only=True, **options)
        info: Any = self.network.feature_info
        strides = info.reduction()
        if len(strides) < 2 or strides != sorted(set(strides)):
            plain = f"; a plain vision transformer goes as vit:{name}" if len(set(strides)) == 1 else ""
            raise SegRefineryError(f"{name!r} is no multi-level encoder: its levels have the strides {strides}{plain}.")
        self.channels = tuple(info.channels()[-4:])
        self.normalization = timm_normalization(name)
        self.largest_stride = max(strides)
        self.multiple = image_multiple(self.network, name, strides[-1], self.channels[-1])

    def levels(self, image: Tensor) -> Sequence[Tensor]:
        maps = self.network(image)[-4:]
        # Some encoders (Swin) put the channels last.
        return [x if x.shape[1] == c else x.movedim(-1, 1) for x, c in zip(maps, self.channels)]


def create_timm(name: str, pretrained: bool, **options: Any) -> nn.Module:
    """A timm network.

    Raises:
        SegRefineryError: timm does not know the name (with the nearest ones), the network does not take the options or
            has no such levels, or its weights cannot be fetched.
    """
    import timm  # here, for it takes seconds to import

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise SegRefineryError(f"timm has no encoder {name!r}.{hint}")
    if pretrained:
        warn_of_licence(name, timm_licence(name))
        options["pretrained_cfg_overlay"] = {"file": str(_timm_weights(name))}
    try:
        network = timm.create_model(name, pretrained=pretrained, **options)
    except (SafetensorError, EOFError, UnpicklingError, OSError) as error:
        raise damaged(str(options.get("pretrained_cfg_overlay", {}).get("file", name)), error) from error
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise SegRefineryError(f"timm cannot make {name!r} with {options}: {error}") from error
    forget_biases(network)
    return network


def timm_normalization(name: str) -> Normalization:
    """The pixel statistics of a timm network's pre-training; where timm has none, ImageNet's, and it is said."""
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # weights that timm does not know, of a network that it does
        config = timm.get_pretrained_cfg(name.split(".")[0])
    if config is None or len(config.mean) != 3 or len(config.std) != 3:
        log.warning(UNKNOWN_STATISTICS, name)
        return IMAGENET
    return Normalization(config.mean, config.std)


def _timm_weights(name: str) -> Path:
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise SegRefineryError(f"timm has no weights {name!r}. Choose one of: {', '.join(tags)}.") from error
    if config and config.hf_hub_id:
        return hub_file(f"hf://{config.hf_hub_id}", config.hf_hub_filename or TENSORS)
    if config and config.url:
        return downloaded(str(config.url))
    raise SegRefineryError(f"timm has no weights for {name!r}: set weights: none.")


class MultiLevelHead(Protocol):
    """Levels, finest first -> logits and the features they read, which are ``width`` wide."""

    width: int

    def __call__(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...


class EncoderHead(Segmenter):
    """An encoder and a multi-level head, and optionally an auxiliary classifier on the last level but one.

    Args:
        auxiliary_width: channels of the auxiliary classifier.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: MultiLevelHead,
        num_classes: int,
        settings: HeadSettings,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.auxiliary = (
            AuxiliaryHead(encoder.channels[-2], num_classes, settings, auxiliary_width) if settings.auxiliary else None
        )
        self.num_classes = num_classes
        self.normalization = encoder.normalization
        self.largest_stride = encoder.largest_stride
        self.graph_least = encoder.least or 1
        self.channels_last = encoder.channels_last
        self.feature_channels = head.width
        self.level_channels = encoder.channels
        self.learner_channels = (head.width, self.auxiliary.width) if self.auxiliary else (head.width,)

    def forward(self, image: Tensor) -> Prediction:
        levels = self.encoder(image)
        learners = [Learner(*self.head(levels))]
        if self.auxiliary is not None:
            learners.append(Learner(*self.auxiliary(levels[-2])))
        return Prediction.of(learners, levels)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def layers_above(self) -> dict[int, int] | None:
        """As timm groups the encoder's parameters, where it says how."""
        network: Any = self.encoder.network
        if not hasattr(network, "group_matcher"):
            return None
        from timm.models import group_parameters

        layer: Any = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        top = max(layer.values())
        return {id(parameter): top - layer[name] for name, parameter in network.named_parameters()}


def segformer(num_classes: int, settings: SegFormerSettings, pretrained: bool, size: str) -> EncoderHead:
    """SegFormer: MiT of a size (``b0`` to ``b5``) and its all-linear head."""
    encoder = MiT(size, pretrained, settings.drop_path)
    width = settings.width or SEGFORMER_WIDTHS[size]
    head = SegFormerHead(encoder.channels, num_classes, width, settings, settings.level_norm)
    return EncoderHead(encoder, head, num_classes, settings)


def daformer(num_classes: int, settings: MiTSettings | TimmSettings, pretrained: bool, encoder: str) -> EncoderHead:
    """DAFormer: its head on MiT (``b0`` to ``b5``) or on any multi-level timm encoder, by timm's name."""
    kind = MiT if encoder in _MIT else TimmEncoder
    levels = kind(encoder, pretrained, settings.drop_path)
    return EncoderHead(levels, DAFormerHead(levels.channels, num_classes, settings), num_classes, settings)
