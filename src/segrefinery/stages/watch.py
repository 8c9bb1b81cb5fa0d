"""What self-training remembers of its own labels, so that a collapse can be seen coming."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrefinery.core.pixelwise import highest
from segrefinery.core.resize import nearest
from segrefinery.labels import IGNORE
from segrefinery.models.segmenter import Prediction

WINDOW = 20
"""Steps that the running means look back over."""


class LabelWatch(nn.Module):
    """Running means of class shares and of the student's agreement with its labels. All of it are buffers: it resumes
    with the checkpoint, and updates wait for no device.

    Attributes:
        early: C, class shares of the pseudo-labels in the first ``WINDOW`` steps. late: in the last ones.
        source: C, class shares of the source labels; of the first pseudo-labels where there is no source.
        agreement: share of the trusted target pixels on which the student says what its label says; ``best``: the
            highest it has been.
        steps: number of steps seen.
        last_clean: the last step without suspicion; ``suspected``: the first with one, or -1.
    """

    early: Tensor
    late: Tensor
    source: Tensor
    agreement: Tensor
    best: Tensor
    steps: Tensor
    last_clean: Tensor
    suspected: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("early", "late", "source"):
            self.register_buffer(name, torch.zeros(num_classes))
        for name in ("agreement", "best", "steps"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("last_clean", torch.tensor(0))
        self.register_buffer("suspected", torch.tensor(-1))

    @torch.no_grad()
    def see(self, probs: Tensor, source_label: Tensor | None, prediction: Prediction, label: Tensor) -> None:
        """Take in one step.

        Args:
            probs: B x C x h x w, the refined labels.
            source_label: B x H x W, 255 ignored; None without a source.
            prediction: what the student said of the mixed image.
            label: B x H x W, what it was taught there; 255 at all pixels but the target's own that count.
        """
        shares = (probs == probs.amax(dim=1, keepdim=True)).float().mean(dim=(0, 2, 3))
        shares = shares / shares.sum()
        logits = prediction.logits
        label = nearest(label, logits.shape[-2:], prediction.aligned)
        learned = label != IGNORE
        right = ((highest(logits) == label) & learned).sum() / learned.sum().clamp(min=1)

        recent = 1.0 / (self.steps + 1).clamp(max=WINDOW)
        self.late += recent * (shares - self.late)
        self.early += torch.where(self.steps < WINDOW, recent, 0.0) * (shares - self.early)
        if source_label is None:
            self.source.copy_(self.early)
        else:
            counts = class_counts(source_label, len(self.source))
            self.source += (counts / counts.sum().clamp(min=1) - self.source) / (self.steps + 1)
        self.agreement += torch.where(learned.any(), recent, 0.0) * (right - self.agreement)
        self.steps += 1
        self.best.copy_(torch.where(self.steps >= WINDOW, torch.maximum(self.best, self.agreement), self.best))


def class_counts(label: Tensor, classes: int) -> Tensor:
    """C pixel counts of labels, 255 ignored. A GPU is not waited for, as ``bincount`` would there."""
    if label.is_cpu:
        return label.flatten().bincount(minlength=256)[:classes]
    return torch.stack([(label == each).sum() for each in range(classes)])
