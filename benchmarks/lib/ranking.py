"""How label-free scores rank models whose true mIoU is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from lib.verdicts import Judged

SMALLEST = 1e-6
"""What a score of 0 counts as under a logarithm."""
LARGEST_FORM = 3
"""Of how many scores a form is made at most."""
SIGNS = {
    "trust": 1, "consistency": 1, "anchors": 1, "ensemble": 1, "entropy": -1, "information": 1, "nuclear_norm": 1,
    "neighborhood_density": 1, "balanced_photometric": 1, "balanced_flip": 1, "balanced_scale": 1, "balanced_mix": 1,
    "agreement_photometric": 1, "agreement_flip": 1, "agreement_scale": 1, "agreement_mix": 1,
}  # fmt: skip
"""Score -> 1 if more of it should mean a better model, else -1."""


def across_table(judged: dict[str, list[Judged]]) -> str:
    """Markdown: per score and task, Spearman over all stage ends and the regret of the picked one."""
    lines = [
        "| score | " + " | ".join(f"{task}: Spearman | regret" for task in judged) + " |",
        "|---|" + "---|---|" * len(judged),
    ]
    for name, sign in SIGNS.items():
        cells = []
        for models in judged.values():
            score = np.array([sign * each.scores[name] for each in models])
            miou = np.array([each.miou for each in models])
            cells.append(f"{spearman(score, miou):+.2f} | {100 * (miou.max() - miou[score.argmax()]):.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| models | " + " | ".join(f"{len(models)} | " for models in judged.values()) + " |")
    return "\n".join(lines)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN if one of the two does not vary."""
    ranks = []
    for values in (first, second):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    if min(np.std(rank) for rank in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def log_product(models: Sequence[Judged], names: Sequence[str]) -> np.ndarray:
    """The logarithm of the product of several scores, of each model; a score of which less is better divides."""
    return sum(
        (SIGNS[name] * np.log(np.clip([each.scores[name] for each in models], SMALLEST, None)) for name in names),
        np.zeros(len(models)),
    )


def correlations(judged: dict[str, list[Judged]], names: Sequence[str]) -> dict[str, float]:
    """By task: Spearman of a product of scores; 0 where it does not vary, for it ranks nothing."""
    found = {}
    for task, models in judged.items():
        rho = spearman(log_product(models, names), np.array([each.miou for each in models]))
        found[task] = 0.0 if math.isnan(rho) else rho
    return found


def forms_table(judged: dict[str, list[Judged]]) -> str:
    """Markdown: would another product of at most ``LARGEST_FORM`` scores rank a task's models better than ``trust``?

    A form that was chosen on a task ranks it well by construction. So each task is ranked by the form with the highest
    mean Spearman on all the others; the best in hindsight stands beside it, as the bound that it is.
    """
    every = [form for size in range(1, LARGEST_FORM + 1) for form in combinations(SIGNS, size)]
    rho = {form: correlations(judged, form) for form in every}
    lines = ["| task | trust | chosen on the other tasks | there | here | best in hindsight | here |", "|" + "---|" * 7]
    for task in judged:
        others = [other for other in judged if other != task]
        there = {form: float(np.mean([by_task[other] for other in others])) for form, by_task in rho.items()}
        chosen = max(every, key=there.__getitem__)
        hindsight = max(every, key=lambda form: rho[form][task])
        lines.append(
            f"| {task} | {rho['trust',][task]:+.2f} | {' x '.join(chosen)} | {there[chosen]:+.2f} | "
            f"{rho[chosen][task]:+.2f} | {' x '.join(hindsight)} | {rho[hindsight][task]:+.2f} |"
        )
    return "\n".join(lines)
