"""The names of transformers' models in a checkpoint: whose they are, and what they are called in the release that is
installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from segrefinery.models.foreign.families import FAMILIES

# Of SegFormer, release 4 of the library -> 5.
_RENAMED = (
    (r"\bencoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
    (r"\bencoder\.block\.(\d+)\.", r"stages.\1.blocks."),
    (r"\bencoder\.layer_norm\.(\d+)\.", r"stages.\1.layer_norm."),
    (r"\battention\.self\.query\.", "attention.q_proj."),
    (r"\battention\.self\.key\.", "attention.k_proj."),
    (r"\battention\.self\.value\.", "attention.v_proj."),
    (r"\battention\.self\.sr\.", "attention.sequence_reduction.sequence_reduction."),
    (r"\battention\.self\.layer_norm\.", "attention.sequence_reduction.layer_norm."),
    (r"\battention\.output\.dense\.", "attention.o_proj."),
    (r"\bmlp\.dense([12])\.", r"mlp.fc\1."),
    (r"\blayer_norm_1\.", "layernorm_before."),
    (r"\blayer_norm_2\.", "layernorm_after."),
    (r"\bdecode_head\.linear_c\.", "decode_head.linear_projections."),
)


def is_old() -> bool:
    """Whether the installed release is one before 5, which renamed the parts of SegFormer."""
    from transformers import __version__

    return int(__version__.partition(".")[0]) < 5


def family_in(names: Iterable[str]) -> str | None:
    """The family whose encoder the names of a state are of, whatever stands before them."""
    parts = {part for name in names for part in name.split(".")}
    if not parts & {family.tap.features.partition(".")[0] for family in FAMILIES.values()}:
        return None
    return next((kind for kind, family in FAMILIES.items() if family.encoder in parts - {"backbone"}), None)


def installed_names(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """A checkpoint of SegFormer under the names of the installed release, whose network has the ``expected`` ones;
    ``save_pretrained`` writes the old ones to this day."""
    installed = " ".join(expected)
    rules = [(old, now) for old, now in _RENAMED if not re.search(old, installed)]
    renamed = {}
    for name, tensor in state.items():
        for old, now in rules:
            name = re.sub(old, now, name)
        renamed[name] = tensor
    return renamed
