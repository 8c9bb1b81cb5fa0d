"""The report of a run: one HTML page that works offline."""

from __future__ import annotations

from pathlib import Path

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import write_text
from segrefinery.reporting.curves import curves_section
from segrefinery.reporting.evidence import classes_section, headline, run_section
from segrefinery.reporting.gallery import gallery_section
from segrefinery.reporting.insight import attention_section, rectification_section
from segrefinery.reporting.labels import labels_section, mixture_section
from segrefinery.reporting.markup import element
from segrefinery.reporting.material import Material
from segrefinery.reporting.page import page
from segrefinery.reporting.rounds import rounds_section

FILE = "report.html"
PARTS = (
    headline,
    classes_section,
    gallery_section,
    curves_section,
    labels_section,
    rounds_section,
    mixture_section,
    attention_section,
    rectification_section,
    run_section,
)
"""From top to bottom; a part is left out where a run has nothing for it."""


@torch.no_grad()
def write_report(run: str | Path) -> Path:
    """Write ``RUN/report.html`` from what the run folder holds, finished or not -> its path.

    Pictures are computed anew from the run's networks and data on a few images; what cannot be computed any more is
    left out and said at the end of the page.

    Raises:
        SegRefineryError: the folder holds no run, or files that no run wrote so.
    """
    folder = Path(run)
    try:
        material = Material.of(folder)
        parts = [part(material) for part in PARTS]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SegRefineryError(
            f"{folder}: no report can be made: what its recipe.yaml and JSON files hold is not what a run writes "
            f"({type(error).__name__}: {' '.join(str(error).split())}); put back the files as they were"
        ) from error
    if material.notes:
        parts.append(element("div", *(element("p", note) for note in material.notes), class_="notes"))
    recipe = material.recipe
    version = material.environment.get("packages", {}).get("segrefinery", "")
    subtitle = (
        f"{recipe.get('source') or recipe.get('model', {}).get('from')} \N{RIGHTWARDS ARROW} {recipe.get('target')}"
    )
    text = page(str(recipe.get("name")), subtitle, parts, f"Written by SegRefinery {version}. This file works offline.")
    path = folder / FILE
    write_text(path, text)
    return path
