"""PRN's own loss: which of the judged logits are wrong (section 3.2; its form is rebuilt from a summary). And
artificial mistakes: ways to spoil good logits so that a network can learn to repair and to distrust them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.core.pixelwise import most_probable
from segrefinery.core.resize import bilinear
from segrefinery.labels import IGNORE
from segrefinery.refine.refinement_network.settings import Perturbation
from segrefinery.spectrum import swap_low_frequency_amplitude


def noise_mask_loss(
    noise: Tensor, judged: Tensor, label: Tensor, aligned: bool = False, largest_balance: float = 10.0
) -> Tensor:
    """Binary cross-entropy of the noise logits with "argmax of ``judged`` is wrong", mean over labelled pixels.

    Wrong pixels count clip(#right / #wrong, 1, ``largest_balance``) times, for they are few.

    Args:
        noise: B x h x w; up-sampled to the label's size (bilinear), as ``judged`` is.
        judged: B x C x h x w logits whose mistakes are to be found.
        label: B x H x W int64, 255 ignored.
        aligned: as in ``core.resize.bilinear``.
    """
    size, known = label.shape[-2:], label != IGNORE
    noise = bilinear(noise[:, None].float(), size, aligned)[:, 0]
    wrong = (most_probable(judged, size, aligned) != label) & known
    total, mistakes = known.sum(), wrong.sum()
    balance = ((total - mistakes) / mistakes.clamp(min=1)).clamp(1.0, largest_balance)
    loss = F.binary_cross_entropy_with_logits(noise, wrong.float(), pos_weight=balance, reduction="none")
    return loss.masked_fill(~known, 0.0).sum() / total.clamp(min=1)


def perturb(
    logits: Tensor, style: Tensor, kind: Perturbation, strength: float, generators: list[torch.Generator]
) -> Tensor:
    """Spoil source logits.

    ``fourier`` takes the low-frequency amplitude of a random target image's logits (PRN, section 3.3);
    ``none`` changes nothing. Our own: ``regions`` takes classes for others in whole regions, as the teacher hesitates
    between them on the target; ``class_dropout``; ``boundary_jitter``.

    Args:
        logits: B x C x h x w.
        style: B' x C x h' x w' logits of target images; ``fourier``, which resizes them where the sizes differ, and
            ``regions`` read them.
        kind: which mistakes.
        strength: ``fourier``: half-width of the swapped square over the shorter side; ``regions``: their share of the
            image; ``class_dropout``: probability that a class is forgotten; ``boundary_jitter``: largest shift over the
            shorter side.
        generators: one an image.

    Returns:
        B x C x h x w in float32.
    """
    logits = logits.float()
    if kind == "fourier":
        return swap_low_frequency_amplitude(logits, _random_style(logits, style.float(), generators), strength)
    if kind == "regions":
        doubts = _doubts(style.float())
        return torch.stack([_confuse(one, doubts, strength, rng) for one, rng in zip(logits, generators)])
    if kind == "class_dropout":
        return torch.stack([_forget_classes(one, strength, rng) for one, rng in zip(logits, generators)])
    if kind == "boundary_jitter":
        return torch.stack([_jitter(one, strength, rng) for one, rng in zip(logits, generators)])
    return logits


def _random_style(logits: Tensor, style: Tensor, generators: list[torch.Generator]) -> Tensor:
    """For each image of ``logits`` one of ``style``, at its size."""
    chosen = [int(torch.randint(len(style), (), generator=rng)) for rng, _ in zip(generators, logits)]
    return bilinear(style[chosen], logits.shape[-2:])


def _doubts(logits: Tensor) -> Tensor:
    """B x C x h x w -> C x C: how much each class is thought of where another one is said; the diagonal is 0."""
    probs = logits.softmax(dim=1).movedim(1, -1).flatten(0, 2)
    said = F.one_hot(probs.argmax(dim=1), probs.shape[1]).to(probs.dtype)
    with torch.autocast(probs.device.type, enabled=False):
        return (said.T @ probs).fill_diagonal_(0)


def _confuse(logits: Tensor, doubts: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """C x h x w: in smooth regions that cover ``share`` of the image, what is said changes places with another class.

    For each class one other is drawn by ``doubts`` (C x C). Where a class was never said, all others are as likely.
    """
    chances = doubts.cpu() + 1e-6 * (1 - torch.eye(len(doubts)))
    others = torch.multinomial(chances, 1, generator=rng)[:, 0].to(logits.device)
    said = logits.argmax(dim=0, keepdim=True)
    other = others[said]
    swapped = logits.scatter(0, said, logits.gather(0, other)).scatter(0, other, logits.gather(0, said))
    field = torch.rand(1, 1, 5, 5, generator=rng)
    field = F.interpolate(field, logits.shape[-2:], mode="bicubic", align_corners=True)[0].to(logits.device)
    return torch.where(field > field.quantile(1 - share), swapped, logits)


def _forget_classes(logits: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """C x h x w: the logits of randomly chosen classes fall to each pixel's minimum, so that its next choice wins."""
    forgotten = (torch.rand(len(logits), generator=rng) < probability).to(logits.device)
    return torch.where(forgotten[:, None, None], logits.amin(dim=0), logits)


def _jitter(logits: Tensor, reach: float, rng: torch.Generator) -> Tensor:
    """C x h x w: moved by a smooth random field (knots every 8 pixels) of at most ``reach`` times the shorter side."""
    height, width = logits.shape[-2:]
    knots = torch.rand(1, 2, -(-height // 8) + 1, -(-width // 8) + 1, generator=rng).to(logits.device) * 2 - 1
    shift = F.interpolate(knots, (height, width), mode="bilinear", align_corners=True)[0]
    shift = shift * (reach * min(height, width))
    x = torch.arange(width, device=logits.device) + shift[0]
    y = torch.arange(height, device=logits.device)[:, None] + shift[1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(logits[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
