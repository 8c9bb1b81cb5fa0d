"""How well a noise mask finds the labels that are wrong, beside entropy and confidence on the same pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from segrefinery.data.transforms import resize_map
from segrefinery.labels import IGNORE
from segrefinery.models.teacher import TeacherView
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.refinement_network.refiner import Refinement


def area_under_roc(score: Tensor, positive: Tensor) -> float:
    """Chance that a positive scores higher than a negative, ties counted half; NaN without both.

    Args:
        score, positive: N numbers, N bool.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = score.double().unique(return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0) - (counts - 1) / 2)[place]  # the mean rank of equals
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


class NoiseScores:
    """Pixels of the network's grid: what each measure says of them, and whether the teacher's label is wrong."""

    def __init__(self) -> None:
        self.scores: dict[str, list[Tensor]] = {}
        self.wrong: list[Tensor] = []

    def see(self, view: TeacherView, seen: Refinement, reference: Tensor) -> None:
        """One image; reference 1 x H x W, 255 ignored."""
        label = resize_map(reference[0], view.logits.shape[-2:])
        known = label != IGNORE
        probs = view.probs
        measures = {
            "noise mask": seen.noise[0].sigmoid(),
            "entropy": normalized_entropy(probs)[0],
            "1 - max probability": 1 - probs[0].amax(dim=0),
        }
        for name, values in measures.items():
            self.scores.setdefault(name, []).append(values[known].cpu())
        self.wrong.append((view.logits[0].argmax(dim=0) != label)[known].cpu())

    def table(self) -> str:
        """Markdown. Entropy and confidence have no threshold of their own: they mark as many pixels as the mask."""
        wrong = torch.cat(self.wrong)
        scores = {name: torch.cat(values) for name, values in self.scores.items()}
        marked = int((scores["noise mask"] > 0.5).sum())
        lines = [
            f"{100 * wrong.float().mean():.1f} % of the teacher's labels are wrong; the mask marks "
            f"{100 * marked / len(wrong):.1f} % of the pixels.\n",
            "| measure | precision | recall | area under ROC |\n|---|---:|---:|---:|",
        ]
        for name, values in scores.items():
            worst = torch.zeros_like(wrong)
            worst[values.topk(marked).indices] = True
            hits = int((worst & wrong).sum())
            precision, recall = (100 * hits / max(whole, 1) for whole in (marked, int(wrong.sum())))
            lines.append(f"| {name} | {precision:.1f} | {recall:.1f} | {area_under_roc(values, wrong):.3f} |")
        return "\n".join(lines)
