"""Inter-pixel correlations: an attention module that learns on the source which pixels belong together.

Method: "Exploiting Inter-pixel Correlations in Unsupervised Domain Adaptation for Semantic Segmentation" (Chung, Yoo,
Kwak, arXiv 2110.10916), there called SAM; not Segment Anything. Its attention matrix has one entry for every pair of
pixels; here no more than a strip of it exists at any time, so memory grows with the number of pixels, not its square.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.resize import bilinear
from segrefinery.labels import IGNORE
from segrefinery.losses import surprise

# Entries of the strip of the attention matrix held at a time: 8 MiB in float32 stay in the cache of a CPU or GPU.
STRIP = 2**21


class NonFiniteLogitsError(SegRefineryError, ValueError):
    """Logits or embedding hold NaN or infinity: training has diverged."""


def pixel_attention(logits: Tensor, embedding: Tensor, *, block: int | None = None) -> Tensor:
    """Every pixel's logits become the mean of all pixels' logits, weighted by rectified cosine similarity (eq. 4-7).

    Exact: values and gradients are those of the dense formula. The h*w x h*w matrix is worked through in strips of
    ``block`` rows and recomputed in the backward pass; memory beyond inputs and outputs is two strips.

    Args:
        logits: B x C x h x w, what is averaged.
        embedding: B x E x h x w, what similarity is measured on.
        block: rows at a time; by default as many as stay in the cache.

    Returns:
        B x C x h x w in float32 (float64 for float64 input). A pixel whose embedding is all zero resembles nothing,
        not even itself; its row is zero.

    Raises:
        ValueError: shapes do not fit, or ``block`` is below 1.
        NonFiniteLogitsError: an input holds NaN or infinity.
    """
    if logits.ndim != 4 or embedding.ndim != 4 or logits[:, 0].shape != embedding[:, 0].shape:
        raise ValueError(
            "logits and embedding must be B x C x h x w and B x E x h x w, "
            f"got {list(logits.shape)} and {list(embedding.shape)}"
        )
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    for name, tensor in (("logits", logits), ("embedding", embedding)):
        if not tensor.isfinite().all():
            raise NonFiniteLogitsError(
                f"pixel_attention: the {name} hold NaN or infinity, so training has diverged; lower the learning rate."
            )
    height, width = logits.shape[-2:]
    if block is None:
        block = max(STRIP // max(height * width, 1), 1)
    dtype = torch.promote_types(torch.promote_types(logits.dtype, embedding.dtype), torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        values = logits.to(dtype).flatten(2).mT
        rows = embedding.to(dtype).flatten(2).mT
        unit = rows / (torch.linalg.vector_norm(rows, dim=2, keepdim=True) + 1e-12)
        attended: Tensor = _RectifiedCosineMean.apply(values, unit, block)  # pyright: ignore[reportAssignmentType]
        return attended.mT.unflatten(2, (height, width))


class _RectifiedCosineMean(torch.autograd.Function):
    """``values`` B x N x C averaged with weights relu(unit @ unit.T), rows normalised; ``unit`` is B x N x E.

    With R = relu(S), S = u u', z = row sums of R and out = R v / z, let g = grad / z. Then
    dR_ij = g_i.v_j - g_i.out_i = a_i.b_j, where a = [g, -g.out] and b = [v, 1]. R and S are symmetric, so
    dv = R g, and du = ((dR + dR') * [S > 0]) u with dR + dR' = [a, b] [b, a]': each strip of rows stands alone.
    """

    @staticmethod
    def forward(ctx, values: Tensor, unit: Tensor, block: int) -> Tensor:
        attended = torch.empty_like(values)
        total = torch.empty_like(values[..., :1])
        for image in range(len(values)):
            extended = _with_ones(values[image])
            for rows, (weights,) in _strips(unit[image], block, tiles=1):
                torch.mm(unit[image, rows], unit[image].mT, out=weights).relu_()
                summed = weights @ extended
                mass = summed[:, -1:]
                mass = torch.where(mass > 0, mass, 1)  # only an all-zero embedding has no mass
                total[image, rows] = mass
                attended[image, rows] = summed[:, :-1] / mass
        ctx.save_for_backward(values, unit, attended, total)
        ctx.block = block
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, unit, attended, total = ctx.saved_tensors
        wants_values, wants_unit, _ = ctx.needs_input_grad
        to_values = torch.empty_like(values) if wants_values else None
        to_unit = torch.empty_like(unit) if wants_unit else None
        with torch.autocast(values.device.type, enabled=False):
            scaled = gradients[0] / total
            for image in range(len(values)):
                u, g = unit[image], scaled[image]
                a = torch.cat([g, -(g * attended[image]).sum(1, keepdim=True)], dim=1)
                b = _with_ones(values[image])
                left, right = torch.cat([a, b], dim=1), torch.cat([b, a], dim=1)
                for rows, (weights, slope) in _strips(u, ctx.block, tiles=2):
                    torch.mm(u[rows], u.mT, out=weights).relu_()
                    if to_values is not None:
                        to_values[image, rows] = weights @ g
                    if to_unit is not None:
                        torch.mm(left[rows], right.mT, out=slope).mul_(weights.sign_())
                        to_unit[image, rows] = slope @ u
        return to_values, to_unit, None


def _with_ones(values: Tensor) -> Tensor:
    """N x C -> N x (C + 1): one product then gives weighted sums and the sum of weights."""
    return torch.cat([values, torch.ones_like(values[:, :1])], dim=1)


def _strips(unit: Tensor, block: int, tiles: int):
    """Slices of at most ``block`` rows, each with ``tiles`` scratch matrices rows x N that are used again and again."""
    count = len(unit)
    scratch = unit.new_empty(tiles, min(block, count), count)
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        yield rows, scratch[:, : rows.stop - start].unbind(0)


def similarity_map(maps: Tensor, position: tuple[int, int]) -> Tensor:
    """Rectified cosine similarity of every pixel to one pixel (eq. 13, one row).

    Args:
        maps: B x C x h x w: logits, an embedding, or one-hot labels for how it should look.
        position: (row, column) of the pixel.

    Returns:
        B x h x w in [0, 1].
    """
    maps = maps.float()
    row, column = position
    return F.cosine_similarity(maps, maps[..., row : row + 1, column : column + 1], dim=1, eps=1e-12).relu()


def attention_map(logits: Tensor, embedding: Tensor, position: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How every pixel resembles the one at ``position`` (row, column): by the logits alone, and by the logits plus
    their attended form. Two maps B x h x w in [0, 1] (the paper's Fig. 3)."""
    after = logits.float() + pixel_attention(logits, embedding)
    return similarity_map(logits, position), similarity_map(after, position)


def group_entropy(probs: Tensor, mask: Tensor) -> Tensor:
    """Mean entropy, in nats, of the pixels in a group (eq. 12): the right or the wrong ones of an image.

    Args:
        probs: B x C x h x w.
        mask: B x h x w bool.

    Returns:
        A scalar; NaN for an empty group, so that it can be left out of a mean.
    """
    entropy = torch.special.entr(probs.float()).sum(dim=1)
    return entropy[mask].mean()


def mean_cross_entropy(logits: Tensor, label: Tensor, aligned: bool = False) -> Tensor:
    """Cross-entropy of attended logits (section 4.2): the mean over labelled pixels, at the label's size.

    Args:
        logits: B x C x h x w.
        label: B x H x W int64, 255 ignored. Where all are, the result is 0.
        aligned: as in ``core.resize.bilinear``.
    """
    logits = bilinear(logits.float(), label.shape[-2:], aligned)
    labelled = (label != IGNORE).sum().clamp(min=1)
    return surprise(logits.log_softmax(dim=1), label).sum() / labelled


def attention_distance(
    maps: Tensor,
    wanted: Tensor,
    form: Literal["l1", "kl", "cosine"] = "l1",
    divisor: Literal["pixels", "elements"] = "pixels",
) -> Tensor:
    """How far maps are from what they are pulled to (eq. 8, 9; appendix B): the mean over pixels.

    Args:
        maps, wanted: B x C x h x w.
        form: ``l1`` = sum over channels; ``kl`` = of softmaxes; ``cosine`` = 1 - cosine.
        divisor: ``elements`` divides ``l1`` by C too.
    """
    if form == "l1":
        distance = (maps - wanted).abs()
        return distance.mean() if divisor == "elements" else distance.sum(dim=1).mean()
    if form == "kl":
        divergence = F.kl_div(maps.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True)
        return divergence.sum(dim=1).mean()
    return (1 - F.cosine_similarity(maps, wanted, dim=1)).mean()
