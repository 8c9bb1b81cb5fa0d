"""Write ``settings.md``: every setting of recipes and data sets with its meaning, its default and whose choice that is.

python docs/write_settings.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from segrefinery.core.settings import Provenance, Settings
from segrefinery.data.folder import FolderSettings, SplitSettings
from segrefinery.data.settings import AffineViewSettings, DataSettings, StrongViewSettings, TranslationSettings
from segrefinery.engine.settings import TrainingSettings
from segrefinery.models.networks import NETWORKS, RunModelSettings, network
from segrefinery.models.settings import TeacherSettings
from segrefinery.recipe import Recipe
from segrefinery.refine import REFINERS
from segrefinery.refine.entropy_mixture import TargetGuidedSettings
from segrefinery.stages import STAGES
from segrefinery.stages.settings import LabelledSettings, LossWeights, OptimizerSettings, StageSettings

PAGE = Path(__file__).with_name("settings.md")
PATTERNS = {
    "daformer:TIMM_ENCODER": "daformer:convnext_tiny",
    "vit:TIMM_ENCODER": "vit:vit_tiny_patch16_224",
    "smp:ARCHITECTURE/ENCODER": "smp:unet/resnet34",
    "torchvision:MODEL": "torchvision:deeplabv3_resnet50",
    "transformers:MODEL_TYPE": "transformers:segformer",
    "hrda:NETWORK": "hrda:small",
}
HEAD = """# Settings

What each does, its default, and whose choice the default is (the marks are those of [methods.md](methods.md)). A
recipe may state another value: `segrefinery recipes NAME` shows one whole. `make settings` writes this page from the
classes themselves.
"""


def text() -> str:
    """The page."""
    return HEAD + "".join(f"\n## {title}\n{parts}" for title, parts in chapters())


def chapters() -> Iterator[tuple[str, str]]:
    yield "A recipe", table("Recipe", "a recipe", Recipe)
    yield (
        "Images and training",
        table("Images", "`data` and `target_data`", DataSettings)
        + table("Training", "`training`", TrainingSettings)
        + table("Optimizer", "`optimizer`", OptimizerSettings),
    )
    common = table("All stages", "every stage", StageSettings)
    kinds = (table(kind, f"a stage of `kind: {kind}`", own, StageSettings) for kind, own in STAGES.items())
    yield "Stages", common + "".join(kinds)
    yield (
        "Parts of stages",
        table("Loss weights", "`weights`, `adversarial` and `entropy`", LossWeights)
        + table("Labelled target images", "`labelled`", LabelledSettings)
        + table("Teacher", "`teacher`", TeacherSettings)
        + table("Strong view", "`strong`", StrongViewSettings)
        + table("Moved view", "`strong_view` of the refiners that move the image", AffineViewSettings)
        + table("Translation", "`translation`", TranslationSettings)
        + table("Target-guided rounds", "`target_guided`", TargetGuidedSettings),
    )
    yield "Refiners", "".join(table(name, f"`{name}`", kind) for name, kind in REFINERS.items())
    yield "Networks", table("Network", "`model`", RunModelSettings) + "".join(network_tables())
    yield (
        "A data set",
        table("dataset.yaml", "a `dataset.yaml`", FolderSettings) + table("Split", "a split", SplitSettings),
    )


def network_tables() -> Iterator[str]:
    """The options of the networks, each class once, under the names it serves."""
    names: dict[type[Settings], list[str]] = {}
    rows = NETWORKS | {pattern: network(example) for pattern, example in PATTERNS.items()}
    for name, row in rows.items():
        names.setdefault(row.settings, []).append(name)
    for kind, served in names.items():
        if kind.model_fields:
            yield table(shortest(served), f"`model.options` of {', '.join(f'`{name}`' for name in served)}", kind)


def shortest(names: list[str]) -> str:
    """What the names begin with, for a title."""
    first, *others = [name for name in names if name not in PATTERNS] or names
    stem = first.split("_")[0]
    return f"{stem}_..." if others and all(name.startswith(stem) for name in others) else first


def table(title: str, what: str, kind: type[Settings], beyond: type[Settings] = Settings) -> str:
    """The settings of a class, those of ``beyond`` only where it says otherwise."""
    rows = []
    for key, field in kind.model_fields.items():
        above = beyond.model_fields.get(key)
        if above is None or (above.default, above.description) != (field.default, field.description):
            rows.append(f"| `{field.alias or key}` | {default_of(field)} | {sentence(field)} | {whose(field)} |\n")
    head = "| setting | default | meaning | whose |\n|---|---|---|---|\n"
    return f"\n### {title}\n\nSettings of {what}:\n\n{head}{''.join(rows)}" if rows else ""


def default_of(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else f"`{written(value)}`"


def written(value: Any) -> str:
    """A default as a recipe would say it; of settings only what differs from their own defaults."""
    if isinstance(value, Settings):
        changed = {key: given for key, given in value if given != type(value).model_fields[key].get_default()}
        return "{" + ", ".join(f"{key}: {written(given)}" for key, given in changed.items()) + "}"
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, tuple | list):
        return f"[{', '.join(written(one) for one in value)}]"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa)}e{int(exponent)}"
    return json.dumps(value)


def sentence(field: Any) -> str:
    meaning = " ".join((field.description or "").split())
    return meaning.replace("``", "`").replace("|", "\\|")


def whose(field: Any) -> str:
    marks = [mark.name for mark in field.metadata if isinstance(mark, Provenance)]
    return f"**{marks[0] if marks else 'ours'}**"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
