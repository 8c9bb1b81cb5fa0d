"""The model a user brings, read from wherever it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json
from segrefinery.core.pixels import PerBand, refuse_statistics
from segrefinery.core.settings import Settings
from segrefinery.labels import match
from segrefinery.models.build import build_model
from segrefinery.models.foreign import mmseg, smp, torchvision, transformers
from segrefinery.models.foreign.names import fitted, without_wrappers
from segrefinery.models.foreign.tapped import Tapped
from segrefinery.models.foreign.transformers_names import family_in, installed_names
from segrefinery.models.networks import ModelSettings
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.states import (
    chosen_tensors,
    hub_file,
    load_state,
    read_checkpoint,
    refuse_not_finite,
    tensors_of,
)
from segrefinery.models.trained import StartModel, as_two_classes, class_tensors, some
from segrefinery.models.weights import CONFIG, TENSORS, NetworkConfig, read_config

FORMS = (
    "a run or model folder of ours; hf:ORG/REPO; a folder that transformers' save_pretrained wrote; a folder that "
    "segmentation_models.pytorch's save_pretrained wrote; torchvision:NAME; a checkpoint file (.safetensors, .pth, "
    ".ckpt) of a network named by model.name, or as the code of SegFormer, DAFormer, HRDA, MIC, AdaptSegNet or ADVENT "
    "wrote it"
)

PART = re.compile(r"config\.json|(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")
"""Names of the files in a model's folder; who names one means the folder."""


def read_start(reference: str | Path, network: ModelSettings | None = None) -> StartModel:
    """A trained model from what the user named; see ``FORMS``. Nothing of it is run.

    Args:
        network: of a checkpoint file that does not say it, with the user's ``options``.

    Raises:
        SegRefineryError: no such model, one of a kind or network we cannot read, or tensors that do not fit; the
            message lists the nearest names.
    """
    model = _read_as_is(reference, network)
    try:
        refuse_statistics(model.pixel_mean, model.pixel_std)
    except ValueError as error:
        raise SegRefineryError(
            f"{model.origin}: says how images are normalised, and {error}. Mend what lies beside its weights"
        ) from error
    return model if model.num_classes > 1 else as_two_classes(model)


def _read_as_is(reference: str | Path, network: ModelSettings | None) -> StartModel:
    text = str(reference)
    if text.startswith("hf:"):
        return _of_hub(text.removeprefix("hf:").removeprefix("//"), text)
    if text.startswith("torchvision:"):
        return _of_torchvision(text)
    if not text:
        raise SegRefineryError(f"the model to start from has no name. A model is {FORMS}")
    path = Path(reference)
    if path.is_dir():
        for folder in (path, path / "model", path / "source_model"):
            if (folder / TENSORS).exists() and _is_ours(folder):
                return _of_ours(folder, text)
        if smp.is_folder(path):
            return smp.read(path, text)
        if (path / CONFIG).exists():
            return transformers.read(path, text)
        raise SegRefineryError(f"{text}: this folder holds no model that we can read. A model is {FORMS}")
    if path.is_file():
        if PART.fullmatch(path.name) and _is_model(path.parent):
            return _read_as_is(path.parent, network)
        return _of_file(path, network)
    raise SegRefineryError(f"{text}: there is no such model. A model is {FORMS}")


def new_network(settings: ModelSettings, classes: Sequence[str]) -> Segmenter:
    """The network that the settings name. Of ``weights`` that are a file, the classes are matched by name.

    Raises:
        SegRefineryError: as ``build_model``; or the file's classes are not known, or lack some of these; or its weights
            are whole numbers, or no numbers.
    """
    if settings.weights in (None, "imagenet", "none"):
        return build_model(settings, len(classes))
    plain, address = _without_weights(settings), str(settings.weights)
    path = hub_file(address, TENSORS) if address.startswith("hf://") else Path(address)
    checkpoint = read_checkpoint(path)
    state, trained = tensors_of(checkpoint, address), _classes_beside(path, address) or classes_of(checkpoint)
    if trained is None:
        raise SegRefineryError(
            f"model.weights: {address}: nothing says what its classes are, and in another order they would be "
            f"taken for each other; put the {CONFIG} of its model folder beside it"
        )
    places = [match(name, trained) for name in classes]
    if missing := [name for name, place in zip(classes, places, strict=True) if place is None]:
        raise SegRefineryError(
            f"model.weights: {address}: has no class {some(missing)}, only {some(trained)}; rename some with merge, "
            "or train those alone that it has with classes"
        )
    for name in class_tensors(plain):
        if name in state and len(state[name]) == len(trained):
            state[name] = state[name][torch.tensor(places)]
    model = build_model(plain, len(classes))
    load_state(model, state, address)
    refuse_not_finite(address, model)
    return model


def _classes_beside(path: Path, address: str) -> tuple[str, ...] | None:
    """What a model folder of ours says of the weights in it."""
    config = path.with_name(CONFIG)
    if address.startswith("hf://"):
        config = hub_file(address, CONFIG)
    return read_config(config).classes if config.exists() and _is_ours(config.parent) else None


def _is_ours(folder: Path) -> bool:
    """Whether a folder's description is one of ours, of whatever version; its reader says what is wrong with it."""
    try:
        content = read_json(folder / CONFIG)
    except SegRefineryError:
        return False
    return isinstance(content, dict) and {"format", "model"} <= content.keys()


def _is_model(folder: Path) -> bool:
    """Whether a folder says of itself what its model is: one of ours, of smp or of transformers."""
    if (folder / TENSORS).exists() and (_is_ours(folder) or smp.is_folder(folder)):
        return True
    return transformers.is_folder(folder) and bool(transformers.weights_in(folder))


class _Pixels(Settings):
    """Of how a model of ours reads images, what its network depends on."""

    model_config = ConfigDict(extra="ignore")

    pixel_mean: PerBand | None = None
    pixel_std: PerBand | None = None


class _OurConfig(NetworkConfig):
    data: _Pixels = _Pixels()


def _of_ours(folder: Path, origin: str) -> StartModel:
    config = read_config(folder / CONFIG, _OurConfig)
    state = tensors_of(read_checkpoint(folder / TENSORS), str(folder / TENSORS))
    expected = build_model(config.model.model_copy(update={"weights": "none"}), len(config.classes)).state_dict()
    tensors, notes = fitted(state, expected, str(folder / TENSORS))
    if other := next((name for name in expected if tensors[name].shape != expected[name].shape), None):
        raise SegRefineryError(
            f"{folder / TENSORS}: {other} is {tuple(tensors[other].shape)}, and by {CONFIG} beside it "
            f"{tuple(expected[other].shape)} ({len(config.classes)} classes); bring the two together again"
        )
    return StartModel(
        origin, _without_weights(config.model), tensors, len(config.classes), config.classes, config.colors,
        config.data.pixel_mean, config.data.pixel_std, notes,
    )  # fmt: skip


def _of_hub(repository: str, origin: str) -> StartModel:
    """A repository of transformers, of ours or of smp, which its ``config.json`` tells."""
    folder = hub_file(f"hf://{repository}", CONFIG).parent
    ours = _is_ours(folder)
    if not ours and not smp.is_folder(folder):
        return transformers.read(repository, origin)
    hub_file(f"hf://{repository}", TENSORS)
    if not ours:
        with suppress(SegRefineryError):  # which only our folders have
            hub_file(f"hf://{repository}", smp.PREPROCESSING)
    return _of_ours(folder, origin) if ours else smp.read(folder, origin)


def _of_torchvision(reference: str) -> StartModel:
    settings, state, classes = torchvision.published(reference.removeprefix("torchvision:"))
    network = ModelSettings(name=reference, weights="none", options=settings.model_dump(mode="json"))
    return StartModel(reference, network, state, len(classes), classes)


def _of_file(path: Path, network: ModelSettings | None) -> StartModel:
    checkpoint = read_checkpoint(path)
    state, notes = chosen_tensors(checkpoint, str(path))
    model = of_tensors(state, path, network, classes_of(checkpoint))
    model.notes = [*notes, *model.notes]
    return model


def of_tensors(
    state: dict[str, Tensor], path: Path, network: ModelSettings | None, classes: tuple[str, ...] | None
) -> StartModel:
    """The tensors of a checkpoint: of mmsegmentation's kind, which says its network by its names, or of the network
    that the user names. They are renamed, cut and joined, and not computed with.

    Args:
        classes: what the checkpoint says of them.
    """
    state, notes = without_wrappers(state)
    mean, std = None, None
    if mmseg.is_ours_to_read(state) and (network is None or network.name != "transformers:upernet"):
        asked = network.options if network is not None and network.name == "deeplabv2_resnet101" else None
        renamed = mmseg.read(state, str(path), asked or {})
        network = ModelSettings(name=renamed.network, weights="none", options=renamed.options)
        state, (mean, std) = renamed.state, renamed.normalization or (None, None)
        notes += [f"a checkpoint of {renamed.network}", *renamed.notes]
    elif network is None:
        raise SegRefineryError(
            f"{path}: holds tensors without saying of which network (they begin with {next(iter(state))!r}); name it, "
            "for instance --set model.name=smp:unet/resnet34"
        )
    network = _without_weights(network)
    if not network.name.startswith("smp:") and any("segmentation_head.0." in name for name in state):
        raise SegRefineryError(
            f"{path}: its names are those of segmentation_models.pytorch, and {network.name} is no network of it; name "
            "that too, for instance --set model.name=smp:unet/resnet34 --set 'model.options={}'"
        )
    if not network.name.startswith("transformers:") and (kind := family_in(state)):
        raise SegRefineryError(
            f"{path}: its names are those of transformers' {kind}, and {network.name} is no network of it; name the "
            f"folder that has its {CONFIG}, or that too: --set model.name=transformers:{kind} --set "
            "'model.options={config: {...}}', with what that file says"
        )
    if network.name.startswith("smp:"):
        state, left_out = smp.own_names(state)
        notes += left_out
        network = _of_its_bands(network, state)
    probe, origin = build_model(network, 2), f"{path} as {network.name}"
    expected = probe.state_dict()
    if network.name == "transformers:segformer":
        state = installed_names(state, expected)
    if isinstance(probe, Tapped):  # a library's own names, without ours before them
        tensors, left_out = fitted(state, {name.removeprefix("module."): expected[name] for name in expected}, origin)
        tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    else:
        tensors, left_out = fitted(state, expected, origin)
    num_classes = len(tensors[class_tensors(network)[0]])
    why = ""
    if classes is not None and len(classes) != num_classes:
        why, classes = f"the checkpoint names {len(classes)}", None
    return StartModel(str(path), network, tensors, num_classes, classes, None, mean, std, [*notes, *left_out], why)


def _of_its_bands(network: ModelSettings, state: Mapping[str, Tensor]) -> ModelSettings:
    """The network with as many bands as the first layer of its weights reads."""
    layers = build_model(network.model_copy(update={"bands": 3}), 2).named_modules()
    first = next(name for name, layer in layers if isinstance(layer, nn.Conv2d) and layer.in_channels == 3)
    weight = next((tensor for name, tensor in state.items() if f".{name}".endswith(f".{first}.weight")), None)
    return network if weight is None else network.model_copy(update={"bands": weight.shape[1]})


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What mmsegmentation keeps under ``meta``."""
    meta = checkpoint.get("meta")
    meta = meta.get("dataset_meta", meta) if isinstance(meta, Mapping) else {}
    names = meta.get("CLASSES", meta.get("classes")) if isinstance(meta, Mapping) else None
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _without_weights(network: ModelSettings) -> ModelSettings:
    return network.model_copy(update={"weights": "none"})
