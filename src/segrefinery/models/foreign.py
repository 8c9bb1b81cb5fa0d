"""Networks from elsewhere: segmentation_models.pytorch by name, and any module of the user's that returns logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.resize import bilinear
from segrefinery.core.settings import Settings, choose
from segrefinery.models.padding import pad_to_multiple, unpad
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.models.states import in_hub_cache, missing_hub_weights, require_hub


class SMPSettings(Settings):
    """A segmentation_models.pytorch model."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the architecture, for instance ``decoder_channels``."""


class SMP(Segmenter):
    """A segmentation_models.pytorch model, taken apart into encoder, decoder and classifier.

    Its final up-sampling is left out: logits come at the decoder's own stride.
    """

    largest_stride = 32
    channels_last = True

    def __init__(
        self,
        num_classes: int,
        settings: SMPSettings | None = None,
        pretrained: bool = False,
        *,
        architecture: str,
        encoder: str,
    ) -> None:
        super().__init__()
        try:
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise SegRefineryError(
                "smp: networks need segmentation-models-pytorch: pip install 'segrefinery[smp]'."
            ) from error
        # DPT hands prefix tokens from encoder to decoder and does not come apart like the others.
        known = {name: name for name in smp.MODEL_ARCHITECTURES_MAPPING if name != "dpt"}
        kind = choose(known, architecture.lower(), "smp architecture")
        repository = f"{encoder} (smp)"
        if not encoder.startswith("tu-"):
            row = choose(smp.encoders.encoders, encoder, "smp encoder (or tu- and a timm name)")
            repository = row["pretrained_settings"].get("imagenet", {}).get("repo_id", repository)
            if pretrained and "/" in repository and not in_hub_cache(repository, "config.json"):
                require_hub(repository)
        arguments = (settings or SMPSettings()).arguments
        weights = "imagenet" if pretrained else None
        try:
            network: Any = smp.create_model(kind, encoder, encoder_weights=weights, classes=num_classes, **arguments)
        except OSError as error:
            raise missing_hub_weights(repository) from error
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise SegRefineryError(f"smp cannot make {architecture} on {encoder}: {error}") from error
        self.encoder, self.decoder = network.encoder, network.decoder
        self.classifier: nn.Conv2d = network.segmentation_head[0]
        channels = tuple(self.encoder.out_channels)
        self.kept = [i for i, count in enumerate(channels) if i and count]
        self.num_classes = num_classes
        self.feature_channels = self.classifier.in_channels
        self.level_channels = tuple(channels[i] for i in self.kept)
        self.learner_channels = (self.feature_channels,)

    def forward(self, image: Tensor) -> Prediction:
        padded = pad_to_multiple(image, 32)
        size, whole = image.shape[-2:], padded.shape[-2:]
        levels = self.encoder(padded)
        features = unpad(self.decoder(levels), whole, size)
        return Prediction(
            self.classifier(features), features, levels=[unpad(levels[i], whole, size) for i in self.kept]
        )

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


class Wrapped(Segmenter):
    """Any module that returns logits, made to speak our words.

    The module may return a tensor B x C x h x w, a mapping with ``out`` (and ``aux``) as torchvision's do, an object
    with ``logits`` as transformers' do, or a ``Prediction``. ``features`` is what the named layer puts out, or else
    the logits themselves.
    """

    def __init__(self, module: nn.Module, num_classes: int, feature_layer: str | None = None) -> None:
        super().__init__()
        self.module = module
        self.num_classes = num_classes
        self.feature_layer = feature_layer
        if feature_layer is not None:
            choose(dict(module.named_modules()), feature_layer, f"layer of {type(module).__name__}")
        seen = self._probe()
        self.feature_channels = seen.features.shape[1]
        self.level_channels = tuple(level.shape[1] for level in seen.levels)
        self.learner_channels = tuple(learner.latent.shape[1] for learner in seen.learners)

    def _probe(self) -> Prediction:
        """One look at a grey image, to learn how wide the module is."""
        tensor = next(iter(self.module.parameters()), torch.zeros(1))
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                return self(torch.zeros(1, 3, 64, 64, device=tensor.device, dtype=tensor.dtype))
        finally:
            self.module.train(training)

    def forward(self, image: Tensor) -> Prediction:
        caught: list[Any] = []
        if self.feature_layer is None:
            output = self.module(image)
        else:
            # The hook lives for one call only: a lasting one would write into the original from every copy.
            layer = self.module.get_submodule(self.feature_layer)
            hook = layer.register_forward_hook(lambda _module, _inputs, out: caught.append(out))
            try:
                output = self.module(image)
            finally:
                hook.remove()
        if isinstance(output, Prediction):
            return output
        logits, aux_logits = _logits_of(output, self.module)
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise SegRefineryError(
                f"{type(self.module).__name__} returned logits of shape {tuple(logits.shape)}; "
                f"expected B x {self.num_classes} x h x w."
            )
        features = logits
        if self.feature_layer is not None:
            if len(caught) != 1 or not isinstance(caught[0], Tensor) or caught[0].ndim != 4:
                raise SegRefineryError(
                    f"the layer {self.feature_layer!r} of {type(self.module).__name__} does not put out "
                    "one B x D x h x w tensor a call: name another feature_layer."
                )
            features = bilinear(caught[0], logits.shape[-2:])
        return Prediction(logits, features, aux_logits)


def _logits_of(output: Any, module: nn.Module) -> tuple[Tensor, Tensor | None]:
    if isinstance(output, Tensor):
        return output, None
    if isinstance(output, Mapping) and "out" in output:
        return output["out"], output.get("aux")
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits, None
    raise SegRefineryError(
        f"{type(module).__name__} returned {type(output).__name__}; expected a tensor, a mapping with 'out', "
        "or an object with logits."
    )


def wrap(module: nn.Module, num_classes: int, feature_layer: str | None = None) -> Segmenter:
    """A segmenter around any module that returns B x C x h x w logits; a segmenter is returned as it is.

    Args:
        feature_layer: dotted name of the submodule whose output is to serve as features; the logits by default.

    Raises:
        SegRefineryError: no such layer, or an output of another kind or shape.
    """
    if isinstance(module, Segmenter):
        return module
    return Wrapped(module, num_classes, feature_layer)
