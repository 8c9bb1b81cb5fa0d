"""Checkpoints of mmsegmentation 0.x and of what was built on it: SegFormer, DAFormer, HRDA and MIC; and those of
AdaptSegNet's kind.

Their code is not needed. Every name is mapped by a rule that says it; a name that no rule knows is left out, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import Normalization
from segrefinery.models.encoders import SEGFORMER_WIDTHS
from segrefinery.models.foreign.names import alone, trained_one
from segrefinery.models.foreign.transformers_names import is_old

_STAGE = {"patch_embed": "patch_embeddings", "norm": "layer_norm"}
# A block of the Mix Transformer, as in SegFormer's code and everything lhoyer's rests on -> transformers 5 | 4.
_BLOCK = {
    "norm1": ("layernorm_before", "layer_norm_1"),
    "norm2": ("layernorm_after", "layer_norm_2"),
    "attn.q": ("attention.q_proj", "attention.self.query"),
    "attn.k": ("attention.k_proj", "attention.self.key"),
    "attn.v": ("attention.v_proj", "attention.self.value"),
    "attn.proj": ("attention.o_proj", "attention.output.dense"),
    "attn.sr": ("attention.sequence_reduction.sequence_reduction", "attention.self.sr"),
    "attn.norm": ("attention.sequence_reduction.layer_norm", "attention.self.layer_norm"),
    "mlp.fc1": ("mlp.fc1", "mlp.dense1"),
    "mlp.fc2": ("mlp.fc2", "mlp.dense2"),
    "mlp.dwconv.dwconv": ("mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
}
# mmsegmentation's own Mix Transformer, from 0.20 on, numbers the parts of a block.
_NUMBERED = {
    "attn.attn.out_proj": "attn.proj",
    "ffn.layers.0": "mlp.fc1",
    "ffn.layers.1": "mlp.dwconv.dwconv",
    "ffn.layers.4": "mlp.fc2",
}
_DEPTHS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "b1",
    (3, 4, 6, 3): "b2",
    (3, 4, 18, 3): "b3",
    (3, 8, 27, 3): "b4",
    (3, 6, 40, 3): "b5",
}


CAFFE = Normalization((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)
"""Of images from 0 to 255 less a mean, as Caffe's networks read them; red first here."""


@dataclass
class Renamed:
    """A checkpoint as a network of ours.

    Attributes:
        network, options: of recipes. state: its tensors in our names. notes: what was left out or guessed.
        normalization: of the images it was trained on, where its code has one; else None.
    """

    network: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    notes: list[str]
    normalization: Normalization | None = None


def is_ours_to_read(names: Mapping[str, Any]) -> bool:
    """Whether a state dict is of this family."""
    return bool(_roots(names) or _adaptsegnet_roots(names))


def read(state: Mapping[str, Tensor], origin: str, asked: Mapping[str, Any]) -> Renamed:
    """A state dict of this family, of whose networks the trained one is read.

    Args:
        asked: options of DeepLab-v2 that the user named.

    Raises:
        SegRefineryError: a backbone or a head that we do not have; or see ``trained_one``.
    """
    kind = _adaptsegnet_roots if _adaptsegnet_roots(state) else _roots
    root = trained_one(kind(state), origin)
    state, others = alone(state, root)
    notes = [f"the prefix {root!r} was taken off the names"] if root else []
    notes += [f"{', '.join(others)} left out: the student ({root.rstrip('.')}) is read"] if others else []
    if kind is _adaptsegnet_roots:
        return _adaptsegnet(state, bool(asked.get("aspp_bug_compat", True)), notes)
    beside = sorted({name.partition(".")[0] for name in state} - {"backbone", "decode_head"})
    notes += [f"{', '.join(beside)} left out: the prediction is that of decode_head"] if beside else []
    backbone = _part(state, "backbone.")
    if not any(name.startswith(("patch_embed1.", "layers.0.0.projection")) for name in backbone):
        raise SegRefineryError(
            f"{origin}: its backbone is no Mix Transformer (it begins with {next(iter(backbone), 'nothing')!r}); of "
            "mmsegmentation's networks those on MiT can be read"
        )
    encoder = mix_transformer(backbone)
    size = _size(encoder)
    head = _part(state, "decode_head.")
    options: dict[str, Any] = {}
    if any(name.startswith("scale_attention.") for name in head):
        fields = {
            **_under("segmenter.encoder.network.", encoder),
            **_under("segmenter.head.", _daformer_head(_part(head, "head."))),
            **_under("attention.", _daformer_head(_part(head, "scale_attention."))),
        }
        return Renamed(f"hrda:daformer_{size}", {}, fields, notes)
    if any(name.startswith("embed_layers.") for name in head):
        name, converted = f"daformer_{size}", _daformer_head(head)
    elif any(name.startswith("linear_c1.") for name in head):
        name, converted = f"segformer_{size}", _segformer_head(head)
        options = _width(converted, size)
    elif any(name.startswith("fusion_conv.") for name in head):
        name, converted = f"segformer_{size}", _convolved_head(head, origin)
        options = {"level_norm": True} | _width(converted, size)
    else:
        raise SegRefineryError(
            f"{origin}: its head is neither SegFormer's (linear_c1, linear_fuse; mmsegmentation's: convs, fusion_conv) "
            f"nor DAFormer's (embed_layers, fuse_layer): {', '.join(list(head)[:3]) or 'no decode_head'}"
        )
    return Renamed(name, options, _under("encoder.network.", encoder) | _under("head.", converted), notes)


def _roots(names: Iterable[str]) -> set[str]:
    """What stands before both ``backbone.`` and ``decode_head.``: nothing, ``model.`` where a student has a teacher,
    and whatever a wrapper put there."""
    backbones, heads = (
        {match[1] for name in names if (match := re.match(rf"((?:[^.]+\.)*?){part}\.", name))}
        for part in ("backbone", "decode_head")
    )
    return backbones & heads


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


# -- the Mix Transformer -----------------------------------------------------------------------------------------------


def mix_transformer(backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone of either spelling as transformers' SegFormer encoder names it."""
    plain = {}
    for name, tensor in backbone.items():
        plain |= _as_segformer(name, tensor)
    renamed: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        for new, part in _split_attention(name, tensor).items():
            renamed[_transformers_name(new)] = part
    return renamed


def _as_segformer(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """mmsegmentation's own spelling as that of SegFormer's code; anything else stays."""
    match = re.fullmatch(r"layers\.(\d)\.(\d)\.(.+)", name)
    if not match:
        return {name: tensor}
    stage, part, rest = int(match[1]) + 1, match[2], match[3]
    if part == "0":
        return {f"patch_embed{stage}.{rest.replace('projection', 'proj')}": tensor}
    if part == "2":
        return {f"norm{stage}.{rest}": tensor}
    number, _, rest = rest.partition(".")
    if rest.startswith("attn.attn.in_proj_"):
        kind = rest.removeprefix("attn.attn.in_proj_")
        q, kv = tensor.split((len(tensor) // 3, 2 * len(tensor) // 3))
        return {f"block{stage}.{number}.attn.q.{kind}": q, f"block{stage}.{number}.attn.kv.{kind}": kv}
    layer, _, kind = rest.rpartition(".")
    layer = _NUMBERED.get(layer, layer)
    if layer in ("mlp.fc1", "mlp.fc2") and tensor.ndim == 4:  # a 1x1 convolution there, a linear map here
        tensor = tensor[:, :, 0, 0]
    return {f"block{stage}.{number}.{layer}.{kind}": tensor}


def _split_attention(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Keys and values are one map there and two here."""
    if ".attn.kv." not in name:
        return {name: tensor}
    key, value = tensor.chunk(2)
    return {name.replace(".attn.kv.", ".attn.k."): key, name.replace(".attn.kv.", ".attn.v."): value}


def _transformers_name(name: str) -> str:
    old = is_old()
    if match := re.fullmatch(r"block(\d)\.(\d+)\.(.+)\.(weight|bias)", name):
        stage, layer = int(match[1]) - 1, _BLOCK.get(match[3], (match[3], match[3]))[old]
        place = f"encoder.block.{stage}.{match[2]}" if old else f"stages.{stage}.blocks.{match[2]}"
        return f"{place}.{layer}.{match[4]}"
    if match := re.fullmatch(r"patch_embed(\d)\.(proj|norm)\.(weight|bias)", name):
        stage, layer = int(match[1]) - 1, _STAGE.get(match[2], match[2])
        place = f"encoder.patch_embeddings.{stage}" if old else f"stages.{stage}.patch_embeddings"
        return f"{place}.{layer}.{match[3]}"
    if match := re.fullmatch(r"norm(\d)\.(weight|bias)", name):
        stage = int(match[1]) - 1
        return f"encoder.layer_norm.{stage}.{match[2]}" if old else f"stages.{stage}.layer_norm.{match[2]}"
    return name


def _size(encoder: Mapping[str, Tensor]) -> str:
    """b0 to b5, by width and depths."""
    first = next(tensor for name, tensor in encoder.items() if name.endswith("proj.weight") and tensor.ndim == 4)
    block_name = re.compile(r"(?:stages|encoder\.block)\.(\d)\.(?:blocks\.)?(\d+)\.")
    places = {(int(match[1]), int(match[2])) for name in encoder if (match := block_name.match(name))}
    depths = tuple(max(block for where, block in places if where == stage) + 1 for stage in range(4))
    if depths == (2, 2, 2, 2):
        return "b0" if len(first) == 32 else "b1"
    if depths not in _DEPTHS:
        raise SegRefineryError(f"a Mix Transformer with {depths} blocks is none of b0 to b5")
    return _DEPTHS[depths]


# -- heads -------------------------------------------------------------------------------------------------------------


def _convolution(tensor: Tensor) -> Tensor:
    """A linear map over channels as the 1x1 convolution it is."""
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


def _segformer_head(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in head.items():
        if match := re.fullmatch(r"linear_c(\d)\.proj\.(weight|bias)", name):
            renamed[f"embeddings.{int(match[1]) - 1}.{match[2]}"] = _convolution(tensor)
        elif name == "linear_fuse.conv.weight":  # it joins the levels coarsest first
            renamed["fusion.0.weight"] = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
        elif name.startswith("linear_fuse.bn."):
            renamed[f"fusion.1.{name.removeprefix('linear_fuse.bn.')}"] = tensor
        elif name.startswith("linear_pred."):
            renamed[f"classifier.{name.removeprefix('linear_pred.')}"] = tensor
        else:
            renamed[name] = tensor
    return renamed


def _convolved_head(head: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """mmsegmentation's own head for SegFormer: a norm and a ReLU a level, joined finest first."""
    renamed = {}
    for name, tensor in head.items():
        new = re.sub(r"^convs\.(\d)\.conv\.", r"embeddings.\1.0.", name)
        new = re.sub(r"^convs\.(\d)\.bn\.", r"embeddings.\1.1.", new)
        new = re.sub(r"^fusion_conv\.conv\.", "fusion.0.", new)
        new = re.sub(r"^fusion_conv\.bn\.", "fusion.1.", new)
        renamed[re.sub(r"^conv_seg\.", "classifier.", new)] = tensor
    if other := next((name for name in renamed if re.match(r"(convs\.\d|fusion_conv)\.", name)), None):
        raise SegRefineryError(
            f"{origin}: decode_head.{other}: of mmsegmentation's SegFormer heads those with batch norm (norm_cfg BN or "
            "SyncBN) can be read"
        )
    return renamed


def _width(head: Mapping[str, Tensor], size: str) -> dict[str, int]:
    """The head's channels, where they are not the published ones."""
    classifier = head.get("classifier.weight")
    width = SEGFORMER_WIDTHS[size] if classifier is None else classifier.shape[1]
    return {} if width == SEGFORMER_WIDTHS[size] else {"width": width}


def _daformer_head(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DAFormer's head, and HRDA's scale attention, whose fusion is one 1x1 convolution."""
    renamed = {}
    for name, tensor in head.items():
        new = re.sub(r"^embed_layers\.(\d)\.proj\.", r"embeddings.\1.", name)
        new = re.sub(r"^fuse_layer\.aspp_modules\.(\d)\.depthwise_conv\.", r"fusion.branches.\1.0.", new)
        new = re.sub(r"^fuse_layer\.aspp_modules\.(\d)\.pointwise_conv\.", r"fusion.branches.\1.1.", new)
        new = re.sub(r"^fuse_layer\.aspp_modules\.(\d)\.", r"fusion.branches.\1.", new)
        new = re.sub(r"^fuse_layer\.bottleneck\.", "fusion.bottleneck.", new)
        new = re.sub(r"^fuse_layer\.", "fusion.", new)
        new = re.sub(r"^(fusion\..*?)conv\.weight$", r"\g<1>0.weight", new)
        new = re.sub(r"^(fusion\..*?)bn\.", r"\g<1>1.", new)
        new = re.sub(r"^conv_seg\.", "classifier.", new)
        renamed[new] = _convolution(tensor) if new.startswith("embeddings.") else tensor
    return renamed


# -- AdaptSegNet's DeepLab-v2, and ADVENT's ----------------------------------------------------------------------------

_CLASSIFIER = re.compile(r"layer([56])\.conv2d_list\.(\d)\.(weight|bias)")


def _adaptsegnet_roots(names: Mapping[str, Any]) -> set[str]:
    """What stands before its names: nothing, or what a wrapper put there."""
    ends = "layer6.conv2d_list.0.weight", "layer4.2.conv3.weight"
    last, deep = ({name.removesuffix(end) for name in names if f".{name}".endswith(f".{end}")} for end in ends)
    return last & deep


def _adaptsegnet(state: Mapping[str, Tensor], two: bool, notes: Sequence[str]) -> Renamed:
    """Of a classifier's four convolutions its code uses ``two``, by mistake (``aspp_bug_compat``); ADVENT's all. Their
    names are the same, and both read blue first."""
    renamed = {}
    for name, tensor in state.items():
        match = _CLASSIFIER.fullmatch(name)
        if not match:
            renamed[f"encoder.{name}"] = tensor.flip(1) if name == "conv1.weight" else tensor
        elif int(match[2]) < (2 if two else 4):
            renamed[f"{'auxiliary' if match[1] == '5' else 'head'}.branches.{match[2]}.{match[3]}"] = tensor
    auxiliary = any(name.startswith("auxiliary.") for name in renamed)
    options = {"caffe_stride": True, "aspp_bug_compat": two} | ({} if auxiliary else {"auxiliary": False})
    said = [*notes, "its images are blue first there; its first layer was turned to red first"]
    said += [
        "of each classifier the dilations 6 and 12 are read, as AdaptSegNet's code uses them; of one that was trained "
        "with all four, as ADVENT's is, say --set model.name=deeplabv2_resnet101 --set "
        "'model.options={aspp_bug_compat: false}'"
    ] if two else []  # fmt: skip
    return Renamed("deeplabv2_resnet101", options, renamed, said, CAFFE)
