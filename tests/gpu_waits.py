"""Where a training step makes the processor wait for the GPU: one step of each recipe's stages on a pretended one.

    python tests/gpu_waits.py cpsl prn     # a line of JSON a recipe: {place: times}

It needs a process of its own, as ``pretended_gpu`` does.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from copy import deepcopy
from typing import Any

import torch

from pretended_gpu import GPU, WAITED, fabric_on_it, pretended_gpu
from runs import TINY, narrow
from segrefinery.core.randomness import generator
from segrefinery.data.batch import LabeledBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.engine.gradients import GradientAverage
from segrefinery.engine.loop import LoopSettings, one_step
from segrefinery.labels import SPACES
from segrefinery.models import build_model
from segrefinery.recipe import Recipe, load_recipe
from segrefinery.stages.base import StageContext

SPACE = SPACES["cityscapes"]
WARM = 1
"""Steps before the one that counts: the warm-ups of narrow refiners are over."""


def batches(settings: Any) -> tuple[Any, Any, None]:
    """Two images of each domain that a stage reads, in the processor's memory."""
    rng = generator(0, "waits")
    image = torch.randn(2, 3, 32, 48, generator=rng)
    label = torch.randint(0, 19, (2, 32, 6), generator=rng).repeat_interleave(8, dim=2)
    label[:, :4] = 255
    index = torch.arange(2)
    source = LabeledBatch(image, label, index)
    target: Any = UnlabeledBatch(image.flip(0), index)
    if getattr(settings, "labels", "online") == "offline":
        target = PseudoLabeledBatch(image.flip(0), label, torch.ones(2, 32, 48), index)
    return source, target if settings.takes_target else None, None


def waits_of(recipe: str) -> dict[str, int]:
    """Of the last step of each stage of a recipe, together."""
    changes = narrow(recipe, defaultdict(lambda: WARM + 1))
    loaded = load_recipe(recipe, "small", [*TINY, *changes, "training.precision=bf16-mixed"])
    waits: dict[str, int] = {}
    for name, settings in loaded.stages.items():
        setting = f"{loaded.model!r} {settings!r} {loaded.training.clip_norm}"
        if setting not in KNOWN:  # recipes share stages
            KNOWN[setting] = waits_of_stage(name, settings, loaded)
        waits = {place: max(times, waits.get(place, 0)) for place, times in {**waits, **KNOWN[setting]}.items()}
    return waits


KNOWN: dict[str, dict[str, int]] = {}
"""A stage and its network -> where its step waits."""


def waits_of_stage(name: str, settings: Any, recipe: Recipe) -> dict[str, int]:
    """Of its last step."""
    fabric = fabric_on_it("bf16-mixed")
    torch.manual_seed(0)
    model = build_model(recipe.model, SPACE.num_classes)
    stage = settings.build(StageContext(model, deepcopy(model), deepcopy(model), SPACE)).to(GPU).train()
    trained = stage.optimizers()
    loop = LoopSettings(settings.steps, clip_norm=recipe.training.clip_norm)
    average = GradientAverage(fabric, stage, trained)
    for number in range(WARM + 1):
        WAITED.clear()
        one_step(fabric, name, stage, trained, loop, number, batches(settings), average)
    return dict(WAITED)


def main() -> None:
    for recipe in sys.argv[1:]:
        with pretended_gpu():
            print(json.dumps({recipe: waits_of(recipe)}), flush=True)


if __name__ == "__main__":
    main()
