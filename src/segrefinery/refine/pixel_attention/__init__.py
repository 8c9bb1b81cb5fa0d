"""SAM: a module that learned on the source which pixels belong together teaches the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefinery.core.lazy import by_module, looked_up
from segrefinery.refine.pixel_attention.settings import PixelAttentionSettings

if TYPE_CHECKING:
    from segrefinery.refine.pixel_attention.formulas import attention_map, pixel_attention, similarity_map
    from segrefinery.refine.pixel_attention.network import AttentionModule
    from segrefinery.refine.pixel_attention.refiner import PixelAttention

__getattr__ = looked_up(
    __name__,
    by_module(
        formulas="attention_map pixel_attention similarity_map",
        network="AttentionModule",
        refiner="PixelAttention",
    ),
)

__all__ = [
    "AttentionModule",
    "PixelAttention",
    "PixelAttentionSettings",
    "attention_map",
    "pixel_attention",
    "similarity_map",
]
