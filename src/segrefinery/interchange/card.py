"""The page that the hub shows of a model: what it was trained on, what it scored and on what, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segrefinery.engine.model import ModelConfig

WORDS = {
    "better": "better than the source-only model",
    "worse": "worse than the source-only model",
    "no evidence": "no evidence that it is better than the source-only model",
}
HOSTS = {"hf": "transformers", "smp": "segmentation-models-pytorch", "ours": "segrefinery"}
"""By format: the library whose code reads the folder, as the hub names it."""
LOADING = {
    "hf": """from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

processor = AutoImageProcessor.from_pretrained("{0}")
model = AutoModelForSemanticSegmentation.from_pretrained("{0}")
logits = model(**processor(image, return_tensors="pt")).logits""",
    "smp": """import segmentation_models_pytorch as smp

model = smp.from_pretrained("{0}")  # preprocessing.json says how its images are read""",
    "ours": """import huggingface_hub, segrefinery

model = segrefinery.load(huggingface_hub.snapshot_download("{0}"))
probs = model.predict(image)  # uint8 bands x H x W -> C x H x W""",
}


@dataclass(frozen=True)
class About:
    """What a card says.

    Attributes:
        repository: ORG/NAME. format: of ``HOSTS``. licence: of the weights, in words.
        recipe, results: of the run; empty where only its model is at hand.
    """

    repository: str
    format: str
    config: ModelConfig
    licence: str
    recipe: Mapping[str, Any]
    results: Mapping[str, Any]


def card(about: About) -> str:
    """The page, in Markdown with the hub's own lines before it."""
    config = about.config
    parts = [
        f"# {about.repository.rpartition('/')[2]}",
        f"{config.model.name} for semantic segmentation, {len(config.classes)} classes, adapted with SegRefinery to "
        "images without labels." if config.trained_on.target else f"{config.model.name} for semantic segmentation.",
        "## Load it", f"```python\n{LOADING[about.format].format(about.repository)}\n```",
        "Or adapt it further: `segrefinery adapt --recipe source_free --from "
        f"hf:{about.repository} --target IMAGES -o RUN`.",
        "## Trained on", _trained_on(about),
        "## Did it help?", _scores(about),
        "## Images", _images(config),
        "## Classes", ", ".join(config.classes),
        "## Licence of the weights", f"{about.licence}.",
    ]  # fmt: skip
    return f"---\n{_front(about)}---\n\n" + "\n\n".join(parts) + "\n"


def _front(about: About) -> str:
    known = re.fullmatch(r"[\w.+-]+", about.licence)
    front: dict[str, Any] = {
        "license": about.licence.lower() if known else "other",
        "library_name": HOSTS[about.format],
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "domain-adaptation", "segrefinery"],
    }
    return yaml.safe_dump(front, sort_keys=False)


def _trained_on(about: About) -> str:
    origin = about.config.trained_on
    rows = {
        "started from": named(origin.start),
        "labelled source images": named(origin.source),
        "target images, without labels": named(origin.target),
        "labelled target images": named(origin.labels),
        "recipe": about.config.recipe + (f", scale {about.recipe['scale']}" if about.recipe.get("scale") else ""),
        "seed": str(origin.seed),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {said} |" for what, said in rows.items() if said)])


def _scores(about: About) -> str:
    """The verdict without labels, and scores with what they were measured on."""
    results, lines = about.results, []
    if verdict := results.get("verdict"):
        word = str(verdict.get("word"))
        lines.append(f"Verdict, found without labels: **{WORDS.get(word, word)}**.")
    scored = {role: results[role] for role in ("source_only", "adapted") if results.get(role)}
    if scored:
        rows = [
            f"| {'this model' if role == 'adapted' or len(scored) == 1 else 'before adaptation'} "
            f"| {100 * scores['miou']:.1f} | {100 * scores['pixel_accuracy']:.1f} |"
            for role, scores in scored.items()
        ]
        lines += [
            f"Measured on {named(about.recipe.get('evaluation')) or 'labelled images'}:",
            "\n".join(["| | mIoU, % | pixels right, % |", "|---|---:|---:|", *rows]),
        ]
    return "\n\n".join(lines) or "Neither a verdict nor scores were made."


def _images(config: ModelConfig) -> str:
    data = config.data
    (mean, std), short = data.normalization, data.evaluation_short_side or data.short_side
    size = f"resized to a shorter side of {short} pixels" if short else "at their own size"
    bands = "RGB" if len(mean) == 3 else f"{len(mean)} bands"
    return (
        f"{bands}, {size}, normalised by a mean of {list(mean)} and a deviation of {list(std)} of values from 0 to 1."
    )


def named(reference: str | list[str] | None) -> str:
    """A data set or model by its name, without the folders of the machine where it lies."""
    if reference is None:
        return ""
    if isinstance(reference, list):
        return ", ".join(named(each) for each in reference)
    return " + ".join(_without_folders(each) for each in reference.split(" + "))


def _without_folders(reference: str) -> str:
    if re.match(r"(hf|torchvision|scenes|wrapped):", reference.rpartition(" of ")[2]):
        return reference
    kind, colon, rest = reference.partition(":")
    path = Path(rest if colon else reference)
    return f"{kind}{colon}{path.name}" if colon else path.name
