"""Tiny runs for the tests of everything above the stages: small scenes, a narrow network, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segrefinery import api

TINY = (
    "model.options.width=16",
    "model.options.blocks=1",
    "data.short_side=32",
    "data.crop=[32, 48]",
    "data.batch=2",
    "training.checkpoint_every=2",
    "training.log_every=2",
)
DAY, NIGHT, TEST = (
    "scenes:day,count=6,size=32x64",
    "scenes:night,count=6,size=32x64",
    "scenes:night,count=3,size=32x64@test",
)


def tiny_run(output: Path, recipe: str = "self_training", overrides: tuple[str, ...] = (), **options: Any) -> Path:
    """A run of a recipe at scale small, made so small that it takes a second or two."""
    steps = {
        "self_training": ("stages.source.steps=4", "stages.adapt.steps=5"),
        "source_only": ("stages.source.steps=4",),
    }
    options = {"evaluation": TEST, "scale": "small", "seed": 3} | options
    return api.adapt(recipe, DAY, NIGHT, output, overrides=(*TINY, *steps.get(recipe, ()), *overrides), **options)
