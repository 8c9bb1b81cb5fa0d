"""SAM: a module that learned on the source which pixels belong together teaches the student."""

from segrefinery.refine.pixel_attention.formulas import attention_map, pixel_attention, similarity_map
from segrefinery.refine.pixel_attention.network import AttentionModule
from segrefinery.refine.pixel_attention.refiner import PixelAttention, PixelAttentionSettings

__all__ = [
    "AttentionModule",
    "PixelAttention",
    "PixelAttentionSettings",
    "attention_map",
    "pixel_attention",
    "similarity_map",
]
