"""PRN's own loss: which of the judged logits are wrong (section 3.2; its form is rebuilt from a summary)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from segrefinery.labels import IGNORE


def noise_mask_loss(noise: Tensor, judged: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of the noise logits with "argmax of ``judged`` is wrong", mean over labelled pixels.

    Wrong pixels count clip(#right / #wrong, 1, 10) times, for they are few.

    Args:
        noise: B x h x w.
        judged: B x C x h x w logits whose mistakes are to be found.
        label: B x h x w int64, 255 ignored.
    """
    known = label != IGNORE
    wrong = (judged.argmax(dim=1) != label) & known
    total, mistakes = known.sum(), wrong.sum()
    balance = ((total - mistakes) / mistakes.clamp(min=1)).clamp(1.0, 10.0)
    loss = F.binary_cross_entropy_with_logits(noise.float(), wrong.float(), pos_weight=balance, reduction="none")
    return loss.masked_fill(~known, 0.0).sum() / total.clamp(min=1)
