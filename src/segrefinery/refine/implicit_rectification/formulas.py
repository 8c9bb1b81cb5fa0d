"""IR2F's mixture of learners and its loss (Gong et al., CVPR 2023; rebuilt from abstract and introduction).

P(c|x) = sum_k w_k(x) p_k(c|x)          L(x) = -log P(y|x)
"""

from __future__ import annotations

import torch
from torch import Tensor

from segrefinery.core.precision import wide
from segrefinery.labels import IGNORE


def mixture_nll(log_weights: Tensor, log_probs: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean over the labelled queries of -log sum_k w_k p_k(label), in log space.

    The gradient to learner k is its own cross-entropy's times its responsibility w_k p_k / sum_j w_j p_j.

    Args:
        log_weights: B x K x Q, -inf allowed for a learner that has no say; or B x K x C x Q, a weight for each class,
            and the mixture is then normalised over the classes.
        log_probs: B x K x C x Q.
        labels: B x Q int64, 255 ignored. If all are, the result is 0 and still part of the graph.
        weight: B x Q, a factor on each query's term, or None; the divisor remains the number of labels.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, learners, classes, queries = log_probs.shape
    shapes = {(batch, learners, queries), (batch, learners, classes, queries)}
    if tuple(log_weights.shape) not in shapes or labels.shape != (batch, queries):
        found = ", ".join(str(tuple(part.shape)) for part in (log_weights, log_probs, labels))
        raise ValueError(f"log_weights B x K (x C) x Q, log_probs B x K x C x Q and labels B x Q expected, got {found}")
    valid = labels != IGNORE
    index = labels.masked_fill(~valid, 0).long()[:, None]
    # Ignored queries are taken out before the logarithm of the sum, whose gradient may be NaN where all terms are -inf.
    if log_weights.ndim == 4:
        valid_only = valid[:, None, None]
        mixed = log_mixture(log_weights.masked_fill(~valid_only, 0.0), log_probs.masked_fill(~valid_only, 0.0))
        nll = -mixed.gather(1, index)[:, 0]
    else:
        of_label = wide(log_probs).gather(2, index[:, None].expand(-1, learners, -1, -1))[:, :, 0]
        nll = -(wide(log_weights) + of_label).masked_fill(~valid[:, None], 0.0).logsumexp(dim=1)
    if weight is not None:
        nll = nll * weight
    return torch.where(valid, nll, 0.0).sum() / valid.sum().clamp_min(1)


def log_mixture(log_weights: Tensor, log_probs: Tensor) -> Tensor:
    """log P: B x K x Q (or B x K x C x Q) and B x K x C x Q -> B x C x Q. With a weight for each class the sum over
    the classes is no longer 1, so it is normalised."""
    classwise = log_weights.ndim == 4
    mixed = (wide(log_weights if classwise else log_weights[:, :, None]) + wide(log_probs)).logsumexp(dim=1)
    return mixed.log_softmax(dim=1) if classwise else mixed
