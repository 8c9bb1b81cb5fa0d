"""The gradients of a distributed run: averaged over its processes while the backward pass still computes others.

A wrapper around a network's forward pass (DistributedDataParallel) does not fit, for a stage calls its networks as
often as it likes and back-propagates several losses a step. So every parameter tells when a gradient was added to it,
and what belongs together travels in buckets, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segrefinery.stages.optimizers import ScheduledOptimizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BUCKET = 4 << 20
"""Bytes of gradients that travel together (``benchmarks/cost/ranks.py``)."""


class Bucket:
    """Gradients that travel together, of one type and device.

    Attributes:
        expected: gradients that were added in the last step; when as many were added again, they are taken as whole.
        used: whether any rank had a gradient in the last step. Only then does the bucket travel early.
        added: gradients added in this step. unused: parameters without one.
        sent: the transfer under way, or None. late: whether a gradient was added after it set out.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        first = parameters[0]
        self.flat = torch.zeros(
            sum(parameter.numel() for parameter in parameters), dtype=first.dtype, device=first.device
        )
        # A gradient lies in memory as its parameter does, channels last for instance: fused optimizers go by that.
        parts = self.flat.split([parameter.numel() for parameter in parameters])
        layouts = (torch.empty_like(parameter, device="meta").stride() for parameter in parameters)
        self.means = [
            part.as_strided(parameter.shape, layout)
            for part, parameter, layout in zip(parts, parameters, layouts, strict=True)
        ]
        self.expected, self.used = 0, False
        self.begin()

    def begin(self) -> None:
        """A new step."""
        self.added, self.sent, self.late = 0, None, False

    def send(self) -> None:
        """Set out with the gradients as they are now; one that is missing counts as zeros."""
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            if parameter.grad is None:
                mean.zero_()
            else:
                mean.copy_(parameter.grad)
        self.sent: Any = torch.distributed.all_reduce(self.flat, async_op=True)
        self.late = False


class GradientAverage:
    """Averages the gradients of a stage over ranks; with one process it does nothing.

    The buckets depend on the parameters alone and travel in one order, so all ranks send the same ones and a sum has
    one order of terms, whether the run was resumed or not. What is only known from the step before is when a bucket is
    whole: a step where more gradients come than in the last sends it again.
    """

    def __init__(self, fabric: Fabric, stage: nn.Module, trained: Mapping[str, ScheduledOptimizer]) -> None:
        self.world, self.device = fabric.world_size, fabric.device
        self.buckets: list[Bucket] = []
        self.turn = 0
        self.handles: list[Any] = []
        if self.world == 1:
            return
        groups = [group for item in trained.values() for group in item.optimizer.param_groups]
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        parameters = [parameter for parameter in stage.parameters() if id(parameter) in optimized]
        # What was made last mostly gets its gradient first.
        self.buckets = [Bucket(part) for part in filled_buckets(parameters[::-1], BUCKET)]
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                hook = self._hook(bucket)
                self.handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def _hook(self, bucket: Bucket) -> Any:
        def added(parameter: Tensor) -> None:
            del parameter
            bucket.added += 1
            bucket.late = bucket.sent is not None
            self._send_those_whole()

        return added

    def _send_those_whole(self) -> None:
        """Send the buckets whose turn it is."""
        while self.turn < len(self.buckets):
            bucket = self.buckets[self.turn]
            if bucket.used:
                if bucket.added < bucket.expected:
                    return
                bucket.send()
            self.turn += 1

    def told(self) -> list[float]:
        """After the last backward pass: sends what has not set out -> what all ranks have to know of this one, whose
        mean ``finish`` takes: each parameter's share of ranks with a gradient, and each bucket's of those it was late
        on."""
        for bucket in self.buckets[self.turn :]:
            if bucket.used:
                bucket.send()
        used = [parameter.grad is not None for bucket in self.buckets for parameter in bucket.parameters]
        return [float(each) for each in (*used, *(bucket.late for bucket in self.buckets))]

    @torch.no_grad()
    def finish(self, told: Sequence[float]) -> None:
        """Gradients become their mean over ranks. A parameter that no rank has a gradient of keeps none, so that the
        optimizer passes it over as it would in one process.

        Args:
            told: means over ranks of what they told.
        """
        shares, late = iter(told), told[len(told) - len(self.buckets) :]
        wanted = [[next(shares) > 0 for _ in bucket.parameters] for bucket in self.buckets]
        for bucket, used, any_late in zip(self.buckets, wanted, late, strict=True):
            if bucket.sent is not None:
                bucket.sent.wait()
            if any(used) and (bucket.sent is None or any_late > 0):
                bucket.send()
        for bucket, used in zip(self.buckets, wanted, strict=True):
            bucket.used, bucket.expected = any(used), bucket.added
            if bucket.used:
                assert bucket.sent is not None
                bucket.sent.wait()
                bucket.flat.div_(self.world)
            for parameter, mean, has_one in zip(bucket.parameters, bucket.means, used, strict=True):
                parameter.grad = mean if has_one else None
            bucket.begin()
        self.turn = 0

    def close(self) -> None:
        """Parameters tell nothing any more."""
        for handle in self.handles:
            handle.remove()


def filled_buckets(parameters: Sequence[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """In order, cut before a bucket would have more than ``size`` bytes, and where type or device change."""
    buckets: list[list[nn.Parameter]] = []
    kind, room = None, 0
    for parameter in parameters:
        needed = parameter.numel() * parameter.element_size()
        if (parameter.dtype, parameter.device) != kind or needed > room:
            kind, room = (parameter.dtype, parameter.device), size
            buckets.append([])
        buckets[-1].append(parameter)
        room -= needed
    return buckets
