"""Losses as plain functions on tensors, all in float32 or better."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.pixelwise import mean_over_pixels
from segrefinery.labels import IGNORE


def weighted_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    *,
    aligned: bool = False,
    mean_over: Literal["all", "labelled"] = "all",
) -> Tensor:
    """Pixel-weighted cross-entropy, divided by *all* pixels, ignored ones included.

    Dividing by a fixed number keeps the pull of every pixel the same however many are ignored, and makes the loss of
    a global batch the mean of its shards'. (DAFormer's convention: reference code, mmseg/models/losses/utils.py.)

    Args:
        logits: B x C x h x w; up-sampled to the label's size where they differ (bilinear).
        label: B x H x W int64, 255 ignored.
        weight: B x H x W in [0, 1], or None for 1.
        aligned: as in ``core.resize.bilinear``.
        mean_over: ``labelled`` divides by the pixels that are not ignored and weigh more than 0 (BDL's convention);
            without any the loss is 0.
    """

    def loss(logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        return _times(surprise(logits.log_softmax(dim=1), label), weight)

    mean = mean_over_pixels(loss, [logits], [label, weight], aligned)
    return mean if mean_over == "all" else mean / _labelled_share(label, weight)


def _labelled_share(label: Tensor, weight: Tensor | None) -> Tensor:
    """The share of pixels that teach; that of one pixel where none does."""
    labelled = label != IGNORE if weight is None else (label != IGNORE) & (weight > 0)
    return labelled.sum().clamp(min=1) / labelled.numel()


def _times(loss: Tensor, weight: Tensor | None) -> Tensor:
    return loss if weight is None else loss * weight


def surprise(log_probs: Tensor, label: Tensor) -> Tensor:
    """-log p of the labels B x H x W, 0 where a pixel is ignored. ``gather`` has a deterministic gradient on every
    device, the cross-entropy of images has none on GPUs."""
    ignored = label == IGNORE
    of_label = log_probs.gather(1, label.masked_fill(ignored, 0)[:, None])[:, 0]
    return (-of_label).masked_fill(ignored, 0.0)


class SeesABox(Protocol):
    """A classifier's opinion and the part of the image it covers (``models.segmenter.Learner``)."""

    logits: Tensor
    box: tuple[float, float, float, float]
    aligned: bool


def crop_to_box(pixels: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """The part of a map (... x H x W) inside a box (top, left, bottom, right), given in fractions of the image."""
    height, width = pixels.shape[-2:]
    top, left, bottom, right = box
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(f"box {box} is not (top, left, bottom, right) in fractions of the image")
    rows = slice(round(top * height), max(round(bottom * height), round(top * height) + 1))
    columns = slice(round(left * width), max(round(right * width), round(left * width) + 1))
    return pixels[..., rows, columns]


def learner_cross_entropy(
    learner: SeesABox, label: Tensor, weight: Tensor | None = None, *, mean_over: Literal["all", "labelled"] = "all"
) -> Tensor:
    """``weighted_cross_entropy`` of one learner against the part of the label (and of the weight) that it sees.

    Args:
        learner: its logits are B x C x h x w on the grid of its own box.
        label: B x H x W int64 of the whole image, 255 ignored.
        weight: B x H x W in [0, 1], or None for 1.
        mean_over: as in ``weighted_cross_entropy``.
    """
    inside = crop_to_box(label, learner.box)
    weight = None if weight is None else crop_to_box(weight, learner.box)
    return weighted_cross_entropy(learner.logits, inside, weight, aligned=learner.aligned, mean_over=mean_over)


def symmetric_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    alpha: float = 0.1,
    beta: float = 1.0,
    *,
    aligned: bool = False,
) -> Tensor:
    """alpha * CE(prediction, label) + beta * CE(label, prediction): bounded where a label is wrong (ProDA, CPSL).

    In the reverse term the label's zeros become 1e-4 and the prediction is held above 1e-7, so that a pixel costs
    ln(10^4) times the probability the prediction gives to other classes: at most 9.21. Divided by *all* pixels, as
    ``weighted_cross_entropy`` is.

    Args:
        logits: B x C x h x w; up-sampled to the label's size where they differ (bilinear).
        label: B x H x W int64, 255 ignored.
        weight: B x H x W in [0, 1], or None for 1.
    """

    def loss(logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        log_probs = logits.log_softmax(dim=1)
        valid = label != IGNORE
        probs = log_probs.exp().clamp_min(1e-7)
        of_label = probs.gather(1, label.masked_fill(~valid, 0)[:, None])[:, 0]
        reverse = -math.log(1e-4) * (probs.sum(dim=1) - of_label) * valid
        return _times(alpha * surprise(log_probs, label) + beta * reverse, weight)

    return mean_over_pixels(loss, [logits], [label, weight], aligned)


def mrkld(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Model-regularising KL divergence from the uniform distribution, up to a constant: -sum_c log p_c (ProDA, CRST).

    Args:
        logits: B x C x h x w.
        mask: B x h x w bool, True where a pixel counts; None for everywhere.

    Returns:
        The mean over the pixels that count, 0 if none does.
    """
    per_pixel = -logits.float().log_softmax(dim=1).sum(dim=1)
    return _masked_mean(per_pixel, mask)


def kl_divergence(reference_logits: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(softmax(reference_logits) || softmax(logits)), summed over classes: distillation and consistency.

    At least 0, and 0 only for equal outputs. The gradient reaches both arguments; detach the one that teaches.

    Args:
        reference_logits, logits: B x C x h x w.
        mask: B x h x w bool, True where a pixel counts; None for everywhere.

    Returns:
        The mean over the pixels that count, 0 if none does.
    """
    reference, other = reference_logits.float().log_softmax(dim=1), logits.float().log_softmax(dim=1)
    return _masked_mean((reference.exp() * (reference - other)).sum(dim=1), mask)


def _masked_mean(per_pixel: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return per_pixel.mean()
    return per_pixel.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


def pixel_contrastive_loss(vectors: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE over a pool of labelled pixels: each is drawn to the others of its class and away from all other classes.

    L_i = mean over positives p of -log(exp(s_ip) / (exp(s_ip) + sum over negatives n of exp(s_in))), s = cosine /
    temperature, averaged over the pixels that have a positive. (ContrastiveSeg: Wang et al., ICCV 2021, eq. 3.)

    Args:
        vectors: M x D, of any length; they are normalised here.
        labels: M class ids.
        temperature: tau.

    Returns:
        A scalar; 0, still part of the graph, where there are fewer than two classes or no pair of one class.

    Raises:
        ValueError: shapes do not fit.
    """
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise ValueError(f"vectors must be M x D and labels M, got {list(vectors.shape)} and {list(labels.shape)}")
    with torch.autocast(vectors.device.type, enabled=False):
        unit = F.normalize(vectors.float(), dim=1)
        same = labels[:, None] == labels[None, :]
        positive = same.clone().fill_diagonal_(False)
        if same.all() or not positive.any():
            return unit.sum() * 0.0
        similarity = unit @ unit.T / temperature
        negatives = similarity.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
        # -log(e^s / (e^s + e^n)) = softplus(n - s), which neither over- nor underflows.
        loss = F.softplus(negatives - similarity).masked_fill(~positive, 0.0)
        count = positive.sum(dim=1)
        return (loss.sum(dim=1) / count.clamp(min=1)).sum() / (count > 0).sum()


def variance_regularized_loss(
    logits: Tensor, other_logits: Tensor, label: Tensor, weight: Tensor | None = None, *, aligned: bool = False
) -> Tensor:
    """exp(-D) CE + D of one classifier: where two classifiers disagree the label is doubted, at a price (MRNet eq. 12).

    D = KL(other || this), a pixel's sum over classes. The gradient flows through every term and reaches both
    classifiers. An ignored pixel has no CE but keeps its D. Divided by *all* pixels.

    Args:
        logits, other_logits: B x C x h x w each, up-sampled to the label's size (bilinear).
        label: B x H x W int64, 255 ignored.
        weight: B x H x W in [0, 1] on the CE, or None for 1.
    """

    def loss(logits: Tensor, other_logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        here, other = logits.log_softmax(dim=1), other_logits.log_softmax(dim=1)
        divergence = (other.exp() * (other - here)).sum(dim=1)
        return (-divergence).exp() * _times(surprise(here, label), weight) + divergence

    return mean_over_pixels(loss, [logits, other_logits], [label, weight], aligned)


def entropy_loss(logits: Tensor, power: float | None = None) -> Tensor:
    """Mean entropy of the prediction, divided by log C (MinEnt: ADVENT eq. 3).

    Args:
        logits: B x C x h x w.
        power: eta of FDA's robust penalty (H^2 + 1e-8)^eta, which weighs uncertain pixels more; None for H itself.
    """
    entropy = self_information(logits).sum(dim=1)
    return entropy.mean() if power is None else (entropy.square() + 1e-8).pow(power).mean()


def self_information(logits: Tensor) -> Tensor:
    """-p log p / log C of each class, B x C x h x w; its sum over classes is the normalised entropy (ADVENT eq. 6).

    Raises:
        ValueError: fewer than two classes, for which log C is 0.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits: at least 2 classes expected, got shape {tuple(logits.shape)}")
    log_probs = logits.float().log_softmax(dim=1)
    return -(log_probs.exp() * log_probs) / math.log(logits.shape[1])


def domain_loss(scores: Tensor, domain: float, objective: Literal["vanilla", "least_squares"] = "vanilla") -> Tensor:
    """How far a discriminator's scores are from calling every place ``domain``: source = 0, target = 1.

    Args:
        scores: logits, any shape.
        objective: binary cross-entropy (AdaptSegNet), or squared distance (LS-GAN).
    """
    scores = scores.float()
    wanted = torch.full_like(scores, domain)
    if objective == "vanilla":
        return F.binary_cross_entropy_with_logits(scores, wanted)
    return F.mse_loss(scores, wanted)
