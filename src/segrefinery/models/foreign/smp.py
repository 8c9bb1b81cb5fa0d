"""segmentation_models.pytorch: its networks by name, its folders and its state dicts."""

from __future__ import annotations

import io
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json, readable, write_json
from segrefinery.core.lazy import optional
from segrefinery.core.pixels import IMAGENET, Normalization, PerBand
from segrefinery.core.settings import choose
from segrefinery.models.build import build_model
from segrefinery.models.encoders import UNKNOWN_STATISTICS, timm_normalization
from segrefinery.models.foreign.families import WRAPPED
from segrefinery.models.foreign.names import fitted
from segrefinery.models.foreign.timm import forget_biases, image_multiple
from segrefinery.models.foreign.trial import takes
from segrefinery.models.networks import ModelSettings
from segrefinery.models.padding import pad_to_least, pad_to_multiple, unpad
from segrefinery.models.segmenter import Prediction, Segmenter, bands_read
from segrefinery.models.settings import CONFIG, TENSORS, SMPSettings
from segrefinery.models.states import in_hub_cache, missing_hub_weights, read_state, require_hub
from segrefinery.models.trained import StartModel

log = logging.getLogger(__name__)


def library() -> Any:
    """segmentation_models.pytorch.

    Raises:
        SegRefineryError: it is not installed.
    """
    return optional("segmentation_models_pytorch", "smp: networks need segmentation-models-pytorch", "smp")


NOT_OF_LOGITS = ("activation", "aux_params")
"""Arguments of the library's models that say nothing of their logits: what comes behind, and a classifier of images."""


class SMP(Segmenter):
    """A segmentation_models.pytorch model, taken apart into encoder, decoder and classifier.

    Its final up-sampling is left out: logits come at the decoder's own stride. Where the library has one, it enlarges
    from corner to corner, and so must whoever enlarges the logits.

    Attributes:
        multiple, least: what the sides of images are multiples of, and at least, for the library to take them; others
            are padded, and no more than that, so that the network says here what it says there.
    """

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
        smp = library()
        if architecture.lower() == "dpt":
            raise SegRefineryError(
                "smp's DPT hands tokens beside its maps from encoder to decoder, and is not taken apart here; in "
                f"Python, {WRAPPED} adapts it, if it was made with dynamic_img_size=True"
            )
        known = {name: name for name in smp.MODEL_ARCHITECTURES_MAPPING}
        kind = choose(known, architecture.lower(), "smp architecture")
        repository = f"{encoder} (smp)"
        if not encoder.startswith("tu-"):
            row = choose(smp.encoders.encoders, encoder, "smp encoder (or tu- and a timm name)")
            repository = row["pretrained_settings"].get("imagenet", {}).get("repo_id", repository)
            if pretrained and "/" in repository and not in_hub_cache(repository, CONFIG):
                require_hub(repository)
        given = (settings or SMPSettings()).arguments
        arguments = {name: value for name, value in given.items() if name not in NOT_OF_LOGITS}
        if encoder.startswith(("tu-swin_", "tu-swinv2_")):
            arguments = {"strict_img_size": False, **arguments}
        weights = "imagenet" if pretrained else None
        try:
            network: Any = smp.create_model(kind, encoder, encoder_weights=weights, classes=num_classes, **arguments)
        except OSError as error:
            raise missing_hub_weights(repository) from error
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise SegRefineryError(f"smp cannot make {architecture} on {encoder}: {error}") from error
        if pretrained:
            self.normalization = pixel_statistics(encoder, repository)
        self.made_of = {"arch": kind, "encoder_name": encoder, **arguments}
        self.encoder, self.decoder = network.encoder, network.decoder
        self.classifier: nn.Conv2d = network.segmentation_head[0]
        self.aligned = bool(getattr(network.segmentation_head[1], "align_corners", False))
        channels = tuple(self.encoder.out_channels)
        self.largest_stride = self.multiple = int(self.encoder.output_stride)
        if encoder.startswith("tu-"):
            forget_biases(self.encoder)
            self.multiple = image_multiple(self.encoder, encoder.removeprefix("tu-"), self.multiple, channels[-1])
        any_side = not getattr(network, "requires_divisible_input_shape", True)
        if any_side and takes(network, 2 * self.multiple + 1, 3 * self.multiple - 1):
            self.multiple = 1
        self.least = least_side(network, self.multiple)
        # Graphs are not followed through a level of one cell, such as PAN's coarsest one of its smallest image.
        self.graph_least = 2 * self.least if self.least > self.multiple else 1
        self.kept = [i for i, count in enumerate(channels) if i and count]
        self.num_classes = num_classes
        self.feature_channels = self.classifier.in_channels
        self.level_channels = tuple(channels[i] for i in self.kept)
        self.learner_channels = (self.feature_channels,)

    def forward(self, image: Tensor) -> Prediction:
        padded = pad_to_multiple(pad_to_least(image, self.least - self.multiple + 1), self.multiple)
        size, whole = image.shape[-2:], padded.shape[-2:]
        levels = self.encoder(padded)
        features, *kept = (
            unpad(maps, whole, size, self.aligned) for maps in (self.decoder(levels), *(levels[i] for i in self.kept))
        )
        return Prediction(self.classifier(features), features, kept, aligned=self.aligned)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


def least_side(network: nn.Module, multiple: int) -> int:
    """The side of the smallest square image that a network takes, doubled from ``multiple`` on: PAN halves its last
    level three times.

    Raises:
        SegRefineryError: it takes none.
    """
    sides = (multiple * 2**power for power in range(10))
    least = next((side for side in sides if takes(network, side, side)), None)
    if least is None:
        raise SegRefineryError(f"{type(network).__name__} takes no images of sides that are multiples of {multiple}")
    return least


def pixel_statistics(encoder: str, repository: str) -> Normalization:
    """What the encoder's pre-training read, from timm or from the file beside its weights; where that says nothing,
    ImageNet's, and it is said."""
    if encoder.startswith("tu-"):
        return timm_normalization(encoder.removeprefix("tu-"))
    path = in_hub_cache(repository, CONFIG) if "/" in repository else None
    config = read_json(path, "delete it, so that it is fetched again") if path else {}
    if "mean" not in config or "std" not in config:
        log.warning(UNKNOWN_STATISTICS, encoder)
        return IMAGENET
    whole = max(config.get("input_range") or (0, 1))  # some statistics are those of bytes
    mean, std = (tuple(value / whole for value in config[key]) for key in ("mean", "std"))
    return Normalization(mean, std)


# -- its folders and state dicts ---------------------------------------------------------------------------------------

PREPROCESSING = "preprocessing.json"


def is_folder(folder: Path) -> bool:
    """Whether the library's ``save_pretrained`` wrote the folder."""
    try:
        config = json.loads(readable(folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "_model_class" in config


def read(folder: Path, origin: str) -> StartModel:
    """A folder that ``save_pretrained`` wrote. Where ``save`` did, it says its classes and its pixel statistics too.

    Args:
        origin: what the user named.

    Raises:
        SegRefineryError: an architecture we do not know, weights that cannot be read or do not fit, or see
            ``read_statistics``.
    """
    config = _described(folder / CONFIG)
    architectures = {kind.__name__: name for name, kind in library().MODEL_ARCHITECTURES_MAPPING.items()}
    architecture = choose(architectures, str(config["_model_class"]), f"smp architecture ({folder / CONFIG})")
    left_out = {"_model_class", "encoder_name", "encoder_weights", "classes", "in_channels", *NOT_OF_LOGITS}
    arguments = {key: value for key, value in config.items() if key not in left_out}
    state, notes = own_names(read_state(folder / TENSORS))
    bands = config.get("in_channels", 3)
    options = SMPSettings(arguments=arguments).model_dump(mode="json", exclude_defaults=True)
    name = f"smp:{architecture}/{config['encoder_name']}"
    network = ModelSettings(name=name, weights="none", options=options, bands=bands)
    tensors, left_out = fitted(state, build_model(network, 2).state_dict(), str(folder))
    num_classes = len(tensors["classifier.weight"])
    if num_classes != config["classes"]:
        notes = (*notes, f"its {CONFIG} says {config['classes']} classes, and its classifier has {num_classes}")
    if activation := config.get("activation"):
        notes = (*notes, f"its {activation} is left out: logits are what is learned from, and the largest is the label")
    said = read_json(folder / PREPROCESSING) if (folder / PREPROCESSING).exists() else {}
    mean, std = read_statistics(said, bands, folder / PREPROCESSING)
    classes, why = tuple(said["classes"]) if "classes" in said else None, ""
    if classes is not None and len(classes) != num_classes:
        classes, why = None, f"{PREPROCESSING} names {len(classes)}"
    return StartModel(origin, network, tensors, num_classes, classes, None, mean, std, [*notes, *left_out], why)


def _described(path: Path) -> dict[str, Any]:
    """What a folder says of its network.

    Raises:
        SegRefineryError: it lacks what the library writes there, or that is of another kind.
    """
    config = read_json(path)
    wanted = {"encoder_name": (str, "a name"), "classes": (int, "a number"), "in_channels": (int, "a number")}
    for key, (kind, words) in wanted.items():
        if not isinstance(given := config.get(key, 3 if key == "in_channels" else None), kind) or not given:
            raise SegRefineryError(f"{path}: {key}: {words} expected, got {given!r}; mend it, or save the model again")
    return config


def read_statistics(said: Any, bands: int, path: Path) -> tuple[PerBand | None, PerBand | None]:
    """Mean and deviation of pixels in [0, 1], of what ``get_preprocessing_params`` of the library says, or ``save``.

    Raises:
        SegRefineryError: they are not as many positive numbers as bands, or the model wants blue first.
    """
    if not isinstance(said, dict):
        raise SegRefineryError(f"{path}: a mapping expected, with mean and std, a number a band; mend or remove it")
    if said.get("input_space", "RGB") != "RGB":
        raise SegRefineryError(
            f"{path}: input_space: the model wants {said['input_space']}, and images are read as RGB; turn the "
            "channels of its first layer round, with those of mean and std, and say RGB"
        )
    if not {"mean", "std"} <= said.keys():
        return None, None
    whole = max(said.get("input_range") or (0, 1))  # some statistics are those of bytes
    for key, least in (("mean", -math.inf), ("std", 0)):
        numbers = said[key] if isinstance(said[key], list) else []
        if len(numbers) != bands or not all(isinstance(each, int | float) and each > least for each in numbers):
            kind = "positive " if key == "std" else ""
            raise SegRefineryError(
                f"{path}: {key}: {bands} {kind}numbers expected, one a band, got {said[key]}; mend or remove the file"
            )
    return tuple(each / whole for each in said["mean"]), tuple(each / whole for each in said["std"])


def own_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The library's names as ours, whatever stands before them, and what has no place here: its image classifier."""
    renamed = {re.sub(r"(^|\.)segmentation_head\.0\.", r"\1classifier.", name): state[name] for name in state}
    extra = [name for name in renamed if ".classification_head." in f".{name}"]
    notes = (f"the classifier of whole images is left out ({', '.join(extra)})",) if extra else ()
    return {name: tensor for name, tensor in renamed.items() if name not in extra}, notes


def its_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names as the library's."""
    return {
        name.replace("classifier.", "segmentation_head.0.", 1) if name.startswith("classifier.") else name: tensor
        for name, tensor in state.items()
    }


# -- back to the library -----------------------------------------------------------------------------------------------


def as_theirs(network: Segmenter) -> Any | None:
    """The library's own module with a network's weights; None where it has no such network."""
    if not isinstance(network, SMP):
        return None
    module: Any = library().create_model(
        **network.made_of, encoder_weights=None, classes=network.num_classes, in_channels=bands_read(network)
    )
    module.load_state_dict(its_names(network.state_dict()))
    return module


def save(module: Any, folder: Path, pixels: Normalization, classes: Sequence[str], more: Mapping[str, Any]) -> None:
    """Write the library's folder; how images are read lies beside, in the words of its ``get_preprocessing_params``.

    Args:
        more: further things to say there.
    """
    module.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a card that knows nothing of the model
    said = {"input_space": "RGB", "input_range": [0, 1], "mean": pixels.mean, "std": pixels.std, "classes": classes}
    write_json(folder / PREPROCESSING, {**said, **more})


def load_back(folder: Path) -> Any:
    """The model of a folder, as the library reads it."""
    with redirect_stdout(io.StringIO()):  # the hub's client prints where it reads from
        return library().from_pretrained(str(folder)).eval()
