"""Hugging Face transformers: its semantic-segmentation models, from a configuration, a folder or the hub."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.core.files import read_json, write_json
from segrefinery.core.lazy import optional
from segrefinery.core.pixels import Normalization, PerBand
from segrefinery.models.encoders import EncoderHead, MiT
from segrefinery.models.foreign.families import FAMILIES, Family, family_of
from segrefinery.models.foreign.tapped import Tapped, least_side
from segrefinery.models.foreign.transformers_classes import class_names, refuse_no_names
from segrefinery.models.heads import SegFormerHead
from segrefinery.models.networks import ModelSettings
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.settings import CONFIG, TransformersSettings
from segrefinery.models.states import hub_file, in_hub_cache, missing_hub_weights, require_hub
from segrefinery.models.torch_file import FETCH, is_cut, refuse_no_weights
from segrefinery.models.trained import StartModel

PREPROCESSOR = "preprocessor_config.json"
PROCESSING = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_flip_channel_order")
"""What of an image processor says how pixels are read."""


def library() -> Any:
    """transformers.

    Raises:
        SegRefineryError: it is not installed.
    """
    return optional("transformers", "transformers: models need it", "segformer")


def build(num_classes: int, settings: TransformersSettings, pretrained: bool, model_type: str) -> Tapped:
    """A model with random weights, for ``num_classes`` classes; ``pretrained`` weights come with a folder only."""
    del pretrained
    family_of(model_type)
    transformers = library()
    config = transformers.AutoConfig.for_model(model_type, **_without_labels(settings.config))
    config.num_labels = num_classes
    module = transformers.AutoModelForSemanticSegmentation.from_config(config)
    return tapped(module, model_type, num_classes, settings)


def tapped(module: Any, model_type: str, num_classes: int, settings: TransformersSettings) -> Tapped:
    """A model of the library in our words."""
    family = family_of(model_type)
    auxiliary = family.auxiliary
    if auxiliary and getattr(module, auxiliary.features.partition(".")[0], None) is None:
        auxiliary = None
    return Tapped(
        module,
        num_classes,
        family.tap,
        family.encoder,
        auxiliary=auxiliary,
        stride=family.stride,
        least=least_side(module, family.arguments, 2 * family.stride),
        patch=module.config.patch_size if family.square else None,
        arguments=family.arguments,
        bgr=settings.bgr,
    )


def _without_labels(config: dict[str, Any]) -> dict[str, Any]:
    left_out = {"model_type", "id2label", "label2id", "num_labels", "architectures", "dtype", "torch_dtype"}
    return {key: value for key, value in config.items() if key not in left_out}


# -- folders and repositories ------------------------------------------------------------------------------------------


def read(reference: str | Path, origin: str) -> StartModel:
    """The model of a folder that ``save_pretrained`` wrote, or of the hub's ``ORG/REPO``. Its classes are those of
    ``id2label``, where these are more than LABEL_0, LABEL_1, ...; its pixel statistics are its preprocessor's.

    Args:
        origin: what the user named.

    Raises:
        SegRefineryError: no semantic-segmentation model of a known family, a file missing or cut, or weights that do
            not fill the model.
    """
    local = Path(reference).is_dir()
    if not local and not in_hub_cache(str(reference), CONFIG):
        require_hub(str(reference))
    if local:
        refuse_no_names(read_json(Path(reference) / CONFIG, FETCH), Path(reference) / CONFIG)
    for path in weights_in(Path(reference)) if local else ():
        refuse_no_weights(path)
    config, module, notes = _loaded(reference, local)
    preprocessor, said = _preprocessor(reference, local, config)
    notes += said
    mean, std = _statistics(preprocessor)
    if preprocessor.get("do_resize", True) and (size := _size_in_words(preprocessor.get("size"))):
        notes.append(f"its own processor reads images {size}; here data.short_side says how large they are read")
    settings = TransformersSettings(
        config=json.loads(config.to_json_string()), bgr=bool(preprocessor.get("do_flip_channel_order", False))
    )
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    network = ModelSettings(
        name=f"transformers:{config.model_type}", weights="none", options=settings.model_dump(mode="json")
    )
    classes, why = class_names(config)
    return StartModel(origin, network, state, config.num_labels, classes, None, mean, std, notes, why_nameless=why)


def is_folder(folder: Path) -> bool:
    """Whether a folder's description is one of the library's."""
    try:
        config = read_json(folder / CONFIG)
    except SegRefineryError:
        return False
    return isinstance(config, dict) and config.get("model_type") in FAMILIES


def weights_in(folder: Path) -> list[Path]:
    """The files of a folder that the library reads: torch's only where there are none of safetensors."""
    return list(folder.glob("model*.safetensors")) or list(folder.glob("pytorch_model*.bin"))


def _loaded(reference: str | Path, local: bool) -> tuple[Any, nn.Module, list[str]]:
    """Configuration and model, in float32, and what is to be said of them; see ``read``."""
    transformers = library()
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(str(reference), **options)
        family_of(config.model_type)
        _refuse_other_bands(config)
        module, report = _with_weights(reference, config, options)
        notes = []
        if (rows := _rows_there(report, family_of(config.model_type))) is not None:
            notes.append(
                f"its configuration says {config.num_labels} classes, and its classifier has {rows}: these are"
            )
            config.num_labels = rows
            module, report = _with_weights(reference, config, options)
    except SegRefineryError as error:
        raise SegRefineryError(f"{reference}: {error}") from error
    except Exception as error:  # the library raises whatever its parts raise: OSError, ValueError, safetensors' own
        if not local and isinstance(error, OSError):
            raise missing_hub_weights(str(reference)) from error
        raise SegRefineryError(f"{reference}: {_reason(error)}") from error
    if differing := sorted(report["mismatched_keys"]):
        name, there, here = differing[0]
        raise SegRefineryError(
            f"{reference}: the weights are not those of its configuration: {name} is {tuple(there)} in the file and "
            f"{tuple(here)} by the configuration ({len(differing)} tensors differ)"
        )
    if missing := sorted(report["missing_keys"]):
        raise SegRefineryError(
            f"{reference}: is no trained segmentation model: {len(missing)} of its tensors are not in the file, among "
            f"them {', '.join(missing[:3])}"
        )
    if unused := sorted(report["unexpected_keys"]):
        notes.append(f"{len(unused)} tensors of the file are not used, among them {', '.join(unused[:3])}")
    return config, module, notes


def _refuse_other_bands(config: Any) -> None:
    bands = getattr(getattr(config, "backbone_config", None) or config, "num_channels", 3)
    if bands != 3:
        raise SegRefineryError(
            f"reads images of {bands} bands (num_channels), and models of transformers are read here for three alone; "
            "those of segmentation_models_pytorch go with any number"
        )


def _with_weights(reference: str | Path, config: Any, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and what the library reports of its tensors; where these are of other shapes they stay random."""
    transformers = library()
    with _quiet(transformers):
        return transformers.AutoModelForSemanticSegmentation.from_pretrained(
            str(reference), config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
            **options,
        )  # fmt: skip


def _rows_there(report: dict[str, Any], family: Family) -> int | None:
    """How many classes the file's classifiers have, where they alone differ from the configuration."""
    classifiers = [tap.features for tap in (family.tap, family.auxiliary) if tap]
    differing = report["mismatched_keys"]
    rows = {there[0] for _, there, _ in differing}
    alone = all(name.rpartition(".")[0] in classifiers for name, _, _ in differing)
    return rows.pop() if alone and len(rows) == 1 else None


def _size_in_words(size: Any) -> str:
    sides = size if isinstance(size, dict) else {"side": size} if isinstance(size, int) else {}
    return " and ".join(f"of a {name.replace('_', ' ')} of {value} pixels" for name, value in sides.items())


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) or "Weights only load failed" in str(error):
        return (
            "its weights hold more than tensors, and loading them could run code, so they were not loaded; save them "
            "anew as .safetensors"
        )
    if is_cut(error):
        return f"its weights are cut short, as by half a download; {FETCH}"
    if "trust_remote_code" in str(error):
        return "needs code of its own, which is not run; models that transformers itself knows can be read"
    return f"transformers cannot load it: {first_line(error)}"


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Within, the library puts no progress bars and tables into what a run says."""
    logging = transformers.utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _preprocessor(reference: str | Path, local: bool, config: Any) -> tuple[dict[str, Any], list[str]]:
    """How images are read, by what lies beside the weights: what the library's own processor does, with the defaults of
    its kind, or what the file says where the library does not know that kind. Without a file, what the library's
    processor for such models does by default, and that it is so, in words.

    Raises:
        SegRefineryError: it cannot be read.
    """
    path = Path(reference) / PREPROCESSOR
    if not local:
        with suppress(SegRefineryError):  # not every repository has one
            path = hub_file(f"hf://{reference}", PREPROCESSOR)
    content = read_json(path, "fetch it again, or remove it") if path.exists() else {}
    if isinstance(content, dict) and content:
        processor = _processor(path.parent)
        # Some kinds keep a mean and never use it (MobileViT's); a name that a kind lacks is what it does not do.
        return content | (_what_it_does(processor) if processor is not None else {}), []
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        write_json(Path(folder) / PREPROCESSOR, {})
        processor = _processor(folder)
    if processor is None:
        return {}, []
    does = _what_it_does(processor)
    first = ", blue first" if does["do_flip_channel_order"] else ""
    return does, [
        f"no {PREPROCESSOR} lies beside it, so pixels are read as {type(processor).__name__} does by default{first}; "
        "one that says otherwise goes there"
    ]


def _processor(folder: str | Path) -> Any | None:
    """The image processor of a folder; None of a kind that the library does not know, or lacks something for."""
    reader, options = library().AutoImageProcessor, {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet(library()):
            return reader.from_pretrained(str(folder), **options)
    except Exception:  # it raises whatever its parts raise
        return None


def _what_it_does(processor: Any) -> dict[str, Any]:
    return {name: getattr(processor, name, None) for name in PROCESSING}


def _statistics(preprocessor: dict[str, Any]) -> tuple[PerBand | None, PerBand | None]:
    """Mean and deviation of pixels in [0, 1]. The library multiplies bytes by ``rescale_factor``, and then normalises;
    one that does not normalise leaves 0 and 1 of what it multiplied."""
    if not preprocessor:
        return None, None
    factor = (preprocessor.get("rescale_factor") or 1 / 255) if preprocessor.get("do_rescale", True) else 1
    whole = 255 * factor  # what white becomes
    if not preprocessor.get("do_normalize", "image_mean" in preprocessor):
        return (0.0,) * 3, (1 / whole,) * 3
    mean, std = (_triple(preprocessor.get(key)) for key in ("image_mean", "image_std"))
    if mean is None or std is None:
        return None, None
    return tuple(value / whole for value in mean), tuple(value / whole for value in std)


def _triple(value: Any) -> tuple[float, ...] | None:
    """A number a band; one number is that of all three."""
    if isinstance(value, int | float):
        return (float(value),) * 3
    return tuple(float(each) for each in value) if isinstance(value, list | tuple) and len(value) == 3 else None


# -- back to the library -----------------------------------------------------------------------------------------------


def as_theirs(network: Segmenter) -> Any | None:
    """The library's own module with a network's weights; None where it has no such network.

    Raises:
        SegRefineryError: it is not installed, or its SegFormer has no such head.
    """
    if isinstance(network, Tapped):
        return copy.deepcopy(network.module) if isinstance(network.module, library().PreTrainedModel) else None
    # a head that is a kind of SegFormer's, as DAFormer's is, is another one
    if isinstance(network, EncoderHead) and isinstance(network.encoder, MiT) and type(network.head) is SegFormerHead:
        return _segformer(network.encoder, network.head)
    return None


def _segformer(encoder: MiT, head: SegFormerHead) -> Any:
    layers: Any = head.fusion
    if head.level_norm or not (isinstance(layers[1], nn.BatchNorm2d) and isinstance(layers[-1], nn.ReLU)):
        raise SegRefineryError(
            "transformers' SegFormer joins linear maps of the levels by a batch norm and a ReLU, and this network was "
            "trained with other options (norm, relu, level_norm); --format onnx and torch write it"
        )
    inner: Any = encoder.network
    config = copy.deepcopy(inner.config)
    config.num_labels, config.decoder_hidden_size = head.classifier.out_channels, head.width
    config.classifier_dropout_prob = head.dropout.p
    module = library().SegformerForSemanticSegmentation(config)
    module.segformer.load_state_dict(inner.state_dict())
    module.decode_head.load_state_dict(_segformer_head(head.state_dict(), module.decode_head.state_dict()))
    return module


def _segformer_head(state: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our SegFormer head's tensors under the library's names, those of ``theirs``, whose releases differ in one."""
    levels = next(name for name in theirs if name.endswith(".0.proj.weight")).partition(".")[0]
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("embeddings."):
            _, number, kind = name.split(".")
            renamed[f"{levels}.{number}.proj.{kind}"] = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        elif name == "fusion.0.weight":  # it joins the levels coarsest first
            renamed["linear_fuse.weight"] = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
        else:
            renamed[name.replace("fusion.1.", "batch_norm.")] = tensor
    return renamed


def save(module: Any, folder: Path, classes: Sequence[str]) -> None:
    """Write the library's folder, with the classes' names as its ``id2label``."""
    module.config.id2label = dict(enumerate(classes))
    module.config.label2id = {name: number for number, name in enumerate(classes)}
    with _quiet(library()):
        module.save_pretrained(folder)


def save_processor(folder: Path, pixels: Normalization, size: Sequence[int] | None, bgr: bool) -> None:
    """Write the image processor beside.

    Args:
        size: height and width that images are brought to; None leaves them as they are. bgr: the model wants blue
            first.

    Raises:
        SegRefineryError: the library has no processor that does both, turn the channels round and normalise.
    """
    sides = {"size": {"height": size[0], "width": size[1]}} if size else {}
    if not bgr:
        processor = library().SegformerImageProcessor(
            do_resize=size is not None, do_reduce_labels=False, image_mean=list(pixels.mean),
            image_std=list(pixels.std), **sides,
        )  # fmt: skip
    elif pixels == ((0, 0, 0), (1, 1, 1)):
        processor = library().MobileViTImageProcessor(
            do_resize=size is not None, do_center_crop=False, do_flip_channel_order=True, resample=2, **sides
        )
    else:
        raise SegRefineryError(
            "this network wants blue first and normalised pixels, for which transformers has no image processor; "
            "--format onnx and torch have both inside"
        )
    processor.save_pretrained(folder)


def load_back(folder: Path) -> tuple[Any, Any]:
    """The model and the image processor of a folder, as the library reads them."""
    transformers = library()
    with _quiet(transformers):
        module = transformers.AutoModelForSemanticSegmentation.from_pretrained(str(folder), local_files_only=True)
    return module.eval(), transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
