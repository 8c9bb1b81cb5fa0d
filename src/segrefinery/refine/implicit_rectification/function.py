"""IR2F's function: mixture weights of several learners at any point of an image (Gong et al., CVPR 2023).

A re-implementation from the paper's abstract and introduction; the network's form is our reconstruction.

    e_k(x) = sum over the 4 cells t around x of area_t * phi_k(latent_k(t), position of x relative to t)
    w(x)   = softmax over the learners of psi(e_1(x), ..., e_K(x))          P(c|x) = sum_k w_k(x) p_k(c|x)

What depends on a cell alone is computed once a cell, and what is linear after the blend once a query, so that a query
costs only what it must.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from segrefinery.core.precision import wide
from segrefinery.models.segmenter import Learner
from segrefinery.refine.implicit_rectification.formulas import (
    WHOLE,
    Sites,
    locate,
    locate_jointly,
    log_mixture,
    mixture_nll,
    pixel_centres,
    read,
    sample,
)
from segrefinery.refine.implicit_rectification.settings import Weighting


class _Reader(nn.Module):
    """phi of one learner: two linear layers, of which only the ReLU between them is left to do for every cell read."""

    def __init__(self, channels: int, hidden: int, unfold: bool, frequencies: int) -> None:
        super().__init__()
        positions = 2 + 4 * frequencies
        # A linear layer on 3 x 3 unfolded latents is a 3 x 3 convolution.
        self.latent = nn.Conv2d(channels, hidden, 3, padding=1) if unfold else nn.Conv2d(channels, hidden, 1)
        self.offset = nn.Linear(positions, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.frequencies = nn.Parameter(2.0 ** torch.linspace(0, 6, frequencies)) if frequencies else None
        bound = 1 / math.sqrt(self.latent.weight[0].numel() + positions)  # as one layer over both inputs
        for weight in (self.latent.weight, self.offset.weight):
            nn.init.uniform_(weight, -bound, bound)

    def on_grid(self, latent: Tensor) -> Tensor:
        """B x D x h x w -> B x hw x hidden."""
        return self.latent(latent.to(self.latent.weight.dtype)).flatten(2).transpose(1, 2).contiguous()

    def forward(self, rows: Tensor, sites: Sites) -> Tensor:
        """e: B x Q x hidden, 0 outside the learner's box."""
        blend = rows.new_zeros(())
        for index, area, offset in zip(
            sites.index.unbind(1), sites.area.unbind(1), sites.offset.unbind(1), strict=True
        ):
            read_here = (read(rows, index) + self.offset(self._encode(offset.to(rows.dtype)))).relu()
            blend = blend + area[..., None].to(rows.dtype) * read_here
        return self.second(blend) * sites.inside[..., None]

    def _encode(self, offset: Tensor) -> Tensor:
        if self.frequencies is None:
            return offset
        angles = (offset[..., None] * self.frequencies).flatten(-2)
        return torch.cat([offset, angles.sin(), angles.cos()], dim=-1)


@dataclass
class _Prepared:
    """What a set of learners needs only once, however many queries follow."""

    learners: Sequence[Learner]
    rows: list[Tensor]
    grid: Tensor | None = None


class ImplicitRectification(nn.Module):
    """Mixture weights of K learners at any coordinate. At first all are equal: the last layer starts at zero.

    The learners' grids may differ in size, stride and box; outside its box a learner's weight is 0. Everything is
    computed in the parameters' precision (float32), also under autocast.

    Args:
        latent_channels: D_k of each learner's latent.
        num_classes: C.
        hidden: width of all layers.
        weighting: ``implicit``, the paper's idea. To compare: ``equal`` weights; the network's own ``heuristic``
            (``Learner.share``, up-sampled; equal where it has none); ``discrete``, the same function at the cell
            centres of the first learner's grid, up-sampled.
        space: mix probabilities, or logits as HRDA does.
        classwise: a weight for each class.
        pe: the relative position as it is (2 numbers), or with IFA's sines and cosines (26).
        ensemble: ``four`` cells on each learner's own grid (continuous); ``nearest`` cell; LIIF's ``joint`` shift.
        unfold: read 3 x 3 latents.
        shared: one phi for all learners (HRDA's scales have one encoder).
        noise_component: a further component, equal probability for all classes, used where ``noise=True`` is asked.
        detach_latents: stop the weights' gradient from reaching the latents.
    """

    def __init__(
        self,
        latent_channels: Sequence[int],
        num_classes: int,
        *,
        hidden: int = 256,
        weighting: Weighting = "implicit",
        space: Literal["prob", "logit"] = "prob",
        classwise: bool = False,
        pe: Literal["raw", "fourier"] = "raw",
        ensemble: Literal["four", "nearest", "joint"] = "four",
        unfold: bool = False,
        shared: bool = False,
        noise_component: bool = False,
        detach_latents: bool = False,
    ) -> None:
        super().__init__()
        if not latent_channels:
            raise ValueError("latent_channels is empty: a mixture needs at least one learner")
        if shared and len(set(latent_channels)) > 1:
            raise ValueError(f"shared=True needs learners with latents of one width, got {tuple(latent_channels)}")
        if noise_component and weighting not in ("implicit", "discrete"):
            raise ValueError(f"noise_component needs learned weights, not weighting={weighting!r}")
        self.latent_channels = tuple(latent_channels)
        self.num_classes = num_classes
        self.weighting: Weighting = weighting
        self.space = space
        self.classwise = classwise
        self.ensemble: Literal["four", "nearest", "joint"] = ensemble
        self.noise_component = noise_component
        self.detach_latents = detach_latents
        self.learned = weighting in ("implicit", "discrete")
        if not self.learned:
            return
        widths = self.latent_channels[:1] if shared else self.latent_channels
        self.phi = nn.ModuleList(_Reader(width, hidden, unfold, 6 if pe == "fourier" else 0) for width in widths)
        components = len(self.latent_channels) + noise_component
        last = nn.Linear(hidden, components * (num_classes if classwise else 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.psi = nn.Sequential(
            nn.ReLU(), nn.Linear(len(self.latent_channels) * hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(), last,
        )  # fmt: skip

    def forward(self, learners: Sequence[Learner], coordinates: Tensor, *, noise: bool = False) -> Tensor:
        """Log weights B x K x Q (class-wise: B x K x C x Q) at coordinates B x Q x 2, (y, x) in [-1, 1].

        ``noise`` appends the noise component's. Raises ValueError for coordinates outside [-1, 1] and for learners
        that are not those the module was built for.
        """
        self._check(learners, coordinates)
        with torch.autocast(device_type=coordinates.device.type, enabled=False):
            return self._log_weights(self._prepare(learners), wide(coordinates), noise)[0]

    def mixture_log_probs(self, learners: Sequence[Learner], coordinates: Tensor) -> Tensor:
        """log P(c|x), B x C x Q at coordinates B x Q x 2; checks as in ``forward``."""
        self._check(learners, coordinates)
        with torch.autocast(device_type=coordinates.device.type, enabled=False):
            return self._log_probs(self._prepare(learners), wide(coordinates))

    def nll(
        self,
        learners: Sequence[Learner],
        coordinates: Tensor,
        labels: Tensor,
        *,
        weight: Tensor | None = None,
        noise: bool = False,
    ) -> Tensor:
        """``mixture_nll`` of the labels B x Q at coordinates B x Q x 2, with gradients to learners and weights."""
        self._check(learners, coordinates)
        with torch.autocast(device_type=coordinates.device.type, enabled=False):
            log_weights, logits = self._log_weights(self._prepare(learners), wide(coordinates), noise)
            if self.space == "prob":
                return mixture_nll(log_weights, logits.log_softmax(dim=2), labels, weight=weight)
            mixed = self._mix(log_weights, logits)[:, None]
            return mixture_nll(mixed.new_zeros(mixed.shape[0], 1, mixed.shape[-1]), mixed, labels, weight=weight)

    def learner_log_probs(self, learners: Sequence[Learner], coordinates: Tensor) -> Tensor:
        """log p_k(c|x) of each learner, B x K x C x Q; only meaningful inside a learner's box."""
        self._check(learners, coordinates)
        with torch.autocast(device_type=coordinates.device.type, enabled=False):
            return self._learner_logits(learners, wide(coordinates))[0].log_softmax(dim=2)

    def decode(
        self,
        learners: Sequence[Learner],
        size: tuple[int, int],
        chunk: int | None = 16384,
        *,
        log: bool = False,
        aligned: bool = False,
    ) -> Tensor:
        """P (or log P) on an H x W grid of any resolution, B x C x H x W, ``chunk`` queries an image at a time (None:
        all at once); ``aligned`` if its outermost cells lie in the corners."""
        decoded = self._dense(learners, size, chunk, self._log_probs, aligned)
        return decoded if log else decoded.exp()

    def decode_weights(
        self,
        learners: Sequence[Learner],
        size: tuple[int, int],
        chunk: int = 16384,
        *,
        noise: bool = False,
        aligned: bool = False,
    ) -> Tensor:
        """The weights on an H x W grid, as in ``decode``: B x K x H x W, or B x K x C x H x W."""
        return self._dense(
            learners, size, chunk, lambda ready, points: self._log_weights(ready, points, noise)[0].exp(), aligned
        )

    def _dense(
        self,
        learners: Sequence[Learner],
        size: tuple[int, int],
        chunk: int | None,
        function: Callable[[_Prepared, Tensor], Tensor],
        aligned: bool,
    ) -> Tensor:
        logits = learners[0].logits
        self._check(learners, None)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            ready = self._prepare(learners)
            points = pixel_centres(size, logits.device, aligned)
            parts = [points] if chunk is None else points.split(chunk)
            decoded = [function(ready, part.expand(logits.shape[0], -1, -1)) for part in parts]
        return torch.cat(decoded, dim=-1).unflatten(-1, size)

    def _prepare(self, learners: Sequence[Learner]) -> _Prepared:
        if not self.learned:
            return _Prepared(learners, [])
        latents = [learner.latent.detach() if self.detach_latents else learner.latent for learner in learners]
        ready = _Prepared(learners, [self._reader(k).on_grid(latent) for k, latent in enumerate(latents)])
        if self.weighting == "discrete":
            height, width = latents[0].shape[-2:]
            cells = pixel_centres((height, width), latents[0].device, learners[0].aligned)
            centres = cells.expand(latents[0].shape[0], -1, -1)
            ready.grid = self._decode(ready, centres).transpose(1, 2).unflatten(2, (height, width))
        return ready

    def _reader(self, learner: int) -> _Reader:
        reader = self.phi[min(learner, len(self.phi) - 1)]
        assert isinstance(reader, _Reader)
        return reader

    def _decode(self, ready: _Prepared, points: Tensor) -> Tensor:
        """psi: B x Q x outputs."""
        sizes = [learner.latent.shape[-2:] for learner in ready.learners]
        boxes = [learner.box for learner in ready.learners]
        if self.ensemble == "joint":
            sites = locate_jointly(points, sizes, boxes, ready.learners[0].aligned)
        else:
            sites = [
                locate(points, size, learner.box, self.ensemble, learner.aligned)
                for size, learner in zip(sizes, ready.learners, strict=True)
            ]
        read_each = [self._reader(k)(rows, at) for k, (rows, at) in enumerate(zip(ready.rows, sites, strict=True))]
        return self.psi(torch.cat(read_each, dim=-1))

    def _log_weights(self, ready: _Prepared, points: Tensor, noise: bool) -> tuple[Tensor, Tensor]:
        """Log weights (with the noise component if asked) and the components' logits, B x K x C x Q."""
        logits, inside = self._learner_logits(ready.learners, points)
        if self.learned:
            decoded = self._decode(ready, points).mT if ready.grid is None else self._upsample(ready, points)
            scores = decoded.unflatten(1, (-1, self.num_classes if self.classwise else 1))
        else:
            scores = self._own_shares(ready, points)
        if noise and not self.noise_component:
            raise ValueError("noise=True needs a module built with noise_component=True")
        if noise:
            logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
            inside = torch.cat([inside, torch.ones_like(inside[:, :1])], dim=1)
        scores = scores[:, : inside.shape[1]].masked_fill(~inside[:, :, None], -math.inf)
        log_weights = scores.log_softmax(dim=1)
        return (log_weights if log_weights.shape[2] > 1 else log_weights[:, :, 0]), logits

    @staticmethod
    def _learner_logits(learners: Sequence[Learner], points: Tensor) -> tuple[Tensor, Tensor]:
        """Each learner's bilinear logits, B x K x C x Q, and whether it sees the point, B x K x Q."""
        sites = [locate(points, each.logits.shape[-2:], each.box, aligned=each.aligned) for each in learners]
        logits = [sample(wide(learner.logits), at) for learner, at in zip(learners, sites, strict=True)]
        return torch.stack(logits, dim=1), torch.stack([at.inside for at in sites], dim=1)

    def _upsample(self, ready: _Prepared, points: Tensor) -> Tensor:
        assert ready.grid is not None
        first = ready.learners[0]
        return sample(ready.grid, locate(points, ready.grid.shape[-2:], first.box, aligned=first.aligned))

    def _own_shares(self, ready: _Prepared, points: Tensor) -> Tensor:
        """Scores B x K x (1 or C) x Q of the weightings that are not learned here."""
        shares = [learner.share for learner in ready.learners]
        if self.weighting == "equal" or any(share is None for share in shares):
            return points.new_zeros(points.shape[0], len(shares), 1, points.shape[1])
        of_learners = [
            sample(wide(share), locate(points, share.shape[-2:], learner.box, aligned=learner.aligned))
            for share, learner in zip(shares, ready.learners, strict=True)
            if share is not None
        ]
        return torch.stack(of_learners, dim=1).clamp_min(1e-6).log()

    def _log_probs(self, ready: _Prepared, points: Tensor) -> Tensor:
        return self._mix(*self._log_weights(ready, points, noise=False))

    def _mix(self, log_weights: Tensor, logits: Tensor) -> Tensor:
        if self.space == "prob":
            return log_mixture(log_weights, logits.log_softmax(dim=2))
        weights = log_weights.exp() if log_weights.ndim == 4 else log_weights.exp()[:, :, None]
        return (weights * logits).sum(dim=1).log_softmax(dim=1)

    def _check(self, learners: Sequence[Learner], coordinates: Tensor | None) -> None:
        channels = tuple(learner.latent.shape[1] for learner in learners)
        if len(channels) != len(self.latent_channels) or (self.learned and channels != self.latent_channels):
            raise ValueError(f"the module was built for latents of {self.latent_channels} channels, got {channels}")
        if all(learner.box != WHOLE for learner in learners):
            raise ValueError("at least one learner must see the whole image: every one has a smaller box")
        if coordinates is None:
            return
        if coordinates.ndim != 3 or coordinates.shape[-1] != 2:
            raise ValueError(f"coordinates must be B x Q x 2 (y, x), got {tuple(coordinates.shape)}")
        if coordinates.numel() and not bool((coordinates.abs() <= 1).all()):
            raise ValueError("coordinates must lie in [-1, 1]")
