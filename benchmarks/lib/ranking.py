"""How label-free scores rank models whose true mIoU is known."""

from __future__ import annotations

import numpy as np

from lib.verdicts import Judged

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
