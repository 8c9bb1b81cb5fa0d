"""What self-training remembers of its own labels, so that a collapse can be seen coming."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        classes = torch.arange(len(self.late), device=probs.device)
        shares = (probs == probs.amax(dim=1, keepdim=True)).float().mean(dim=(0, 2, 3))
        shares = shares / shares.sum()
        logits = prediction.logits
        label = nearest(label, logits.shape[-2:], prediction.aligned)
        learned = label != IGNORE
        right = ((logits.argmax(dim=1) == label) & learned).sum() / learned.sum().clamp(min=1)

        recent = 1.0 / (self.steps + 1).clamp(max=WINDOW)
        self.late += recent * (shares - self.late)
        self.early += torch.where(self.steps < WINDOW, recent, 0.0) * (shares - self.early)
        if source_label is None:
            self.source.copy_(self.early)
        else:
            known = (source_label != IGNORE).sum().clamp(min=1)
            prior = torch.stack([(source_label == each).sum() for each in classes]) / known
            self.source += (prior - self.source) / (self.steps + 1)
        self.agreement += torch.where(learned.any(), recent, 0.0) * (right - self.agreement)
        self.steps += 1
        self.best.copy_(torch.where(self.steps >= WINDOW, torch.maximum(self.best, self.agreement), self.best))
