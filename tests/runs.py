"""Tiny runs for the tests of everything above the stages: small scenes, a narrow network, a few steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import segrefinery as api
from segrefinery import cli
from segrefinery.engine.events import RunEvents
from segrefinery.recipe import load_recipe

TINY = (
    "model.name=small",
    "model.options.width=16",
    "model.options.blocks=1",
    "data.short_side=32",
    "data.crop=[32, 48]",
    "data.batch=2",
    "target_data.short_side=32",
    "target_data.crop=[32, 48]",
    "training.checkpoint_every=2",
    "training.log_every=2",
)
DAY, NIGHT, TEST = (
    "scenes:day,count=6,size=32x64",
    "scenes:night,count=6,size=32x64",
    "scenes:night,count=3,size=32x64@test",
)

NARROW = {
    "self_labeling": {"samples": 16, "bank": 256},
    "refinement_network": {"width": 8, "warmup": 1},
    "pixel_contrast": {"width": 8, "warmup": 1, "min_pixels": 2},
    "implicit_rectification": {"queries": 64, "hidden": 8},
}
"""What makes a refiner small."""


class Told(RunEvents):
    """Hands on what a run tells."""

    def __init__(self, progress: Callable[..., object] | None = None, say: Callable[[str], object] | None = None):
        self.progress, self.say = progress, say

    def said(self, line: str) -> None:
        if self.say is not None:
            self.say(line)

    def progressed(self, what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        if self.progress is not None:
            self.progress(what, done, total, losses)


def narrow(recipe: str, steps: dict[str, int]) -> tuple[str, ...]:
    """Overrides that make any shipped recipe small, with so many steps for each kind of stage."""
    found = load_recipe(recipe, "small")
    overrides = []
    for stage, settings in found.stages.items():
        overrides.append(f"stages.{stage}.steps={steps[settings.kind]}")
        for refiner, changes in NARROW.items():
            if refiner in settings.chain:
                overrides += [f"stages.{stage}.refine.{refiner}.{key}={value}" for key, value in changes.items()]
    if any(settings.kind == "entropy_minimization" for settings in found.stages.values()):  # it needs a batch norm
        overrides += ["model.name=smp:unet/resnet18", "model.weights=none", "model.options={}"]
    if found.model.name.startswith("hrda:"):
        overrides += ["model.name=hrda:small"]
        overrides += ["model.options={detail: 32, divisor: 8, attention_width: 16, attention_norm: group}"]
    return tuple(overrides)


def tiny_run(output: Path, recipe: str = "self_training", overrides: tuple[str, ...] = (), **options: Any) -> Path:
    """A run of a recipe at scale small, made so small that it takes a second or two."""
    steps = {
        "self_training": ("stages.source.steps=4", "stages.adapt.steps=5"),
        "source_only": ("stages.source.steps=4",),
    }
    options = {"evaluation": TEST, "scale": "small", "seed": 3} | options
    if recipe == "oracle":
        options |= {"oracle": "scenes:night,count=4,size=32x64"}
    options["events"] = Told(options.pop("progress", None), options.pop("say", None))
    return api.adapt(recipe, DAY, NIGHT, output, overrides=(*TINY, *steps.get(recipe, ()), *overrides), **options)


def weights(run: Path) -> dict[str, Tensor]:
    """Of the adapted network."""
    return load_file(run / "model" / "model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def command(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Runs ``segrefinery`` as a user does -> exit code, what it said, what it complained of."""
    monkeypatch.setattr(sys, "argv", ["segrefinery", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err
