"""The page that the hub shows of a model: what it was trained on, what it scored and on what, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segrefinery.engine.model import ModelConfig
from segrefinery.engine.start import START

WORDS = {
    "better": "better than the source-only model",
    "worse": "worse than the source-only model",
    "no evidence": "no evidence that it is better than the source-only model",
}
HOSTS = {"hf": "transformers", "smp": "segmentation-models-pytorch", "ours": "segrefinery"}
"""By format: the library whose code reads the folder, as the hub names it."""
HUB_LICENCES = frozenset(
    (
        "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "openrail++", "afl-3.0",
        "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "cc", "cc0-1.0",
        "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0",
        "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "agpl-3.0", "gpl",
        "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "mpl-2.0", "ms-pl", "odbl", "osl-3.0",
        "postgresql", "unlicense", "zlib", "unknown", "other",
    )
)  # fmt: skip
"""Which the hub knows by name; a page with another one says "other" and its name, or is refused there."""
ESTIMATES = {
    "held_out": "that were held out from training",
    "cross_fit": "that teach it, each scored by a model trained alike without it",
}
"""Scores by labels of the target that a run has for training, by their key in its results."""
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
        f"{config.model.name} for semantic segmentation, {len(config.classes)} classes{_how(about)}.",
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


def unadapted(about: About) -> bool:
    """Whether the model is the one that a run began with, or that saw the source alone: a run may ship it."""
    stage = about.config.trained_on.stage
    kept = (about.recipe.get("stages") or {}).get(re.sub(r"-\d+$", "", stage)) or {}
    return stage == START or kept.get("kind") == "supervised"


def _how(about: About) -> str:
    """What was done with it, as the end of a sentence."""
    origin = about.config.trained_on
    if unadapted(about):
        began = "as it was brought" if origin.stage == START else "trained on labelled source images"
        chosen = (about.results.get("verdict") or {}).get("chosen") == origin.stage
        return f", {began} and not adapted{': of the adapted models none was found better' if chosen else ''}"
    if not origin.target:
        return ""
    taught = ", and to a few with them" if origin.labels else ""
    return f", adapted with SegRefinery to images without labels{taught}"


def _front(about: About) -> str:
    licence = about.licence.lower()
    known = licence in HUB_LICENCES
    front: dict[str, Any] = {
        "license": licence if known else "other",
        **({"license_name": licence} if not known and re.fullmatch(r"[\w.+-]+", licence) else {}),
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
    results, lines, stage = about.results, [], about.config.trained_on.stage
    if verdict := results.get("verdict"):
        word, whose = str(verdict.get("word")), " of the run's adapted model" if unadapted(about) else ""
        lines.append(f"Verdict{whose}, found without labels: **{WORDS.get(word, word)}**.")
    roles = {"source_only": "before adaptation", "adapted": "as the run adapted it"}
    scored = {results[role].get("stage"): (role, results[role]) for role in roles if results.get(role)}
    if scored:
        this = stage if stage in scored else [*scored][-1]
        rows = [
            f"| {'this model' if name == this else roles[role]} "
            f"| {100 * scores['miou']:.1f} | {100 * scores['pixel_accuracy']:.1f} |"
            for name, (role, scores) in scored.items()
        ]
        lines += [
            f"Measured on {named(about.recipe.get('evaluation')) or 'labelled images'}:",
            "\n".join(["| | mIoU, % | pixels right, % |", "|---|---:|---:|", *rows]),
        ]
    for key, which in ESTIMATES.items():
        models = (results.get(key) or {}).get("models") or []
        said = [
            f"{'this model' if len(models) == 1 or each['name'] == stage else each['name']} {100 * each['miou']:.1f} % "
            f"mIoU (95 % interval {100 * each['interval'][0]:.1f} to {100 * each['interval'][1]:.1f})"
            for each in models
        ]
        if said:
            lines.append(f"On {results[key]['images']} labelled target images {which}: {', '.join(said)}.")
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
