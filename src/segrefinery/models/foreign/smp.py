"""segmentation_models.pytorch: its networks by name, its folders and its state dicts."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
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
