"""The passes that a training step makes through its networks: written down, and made again without all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.models.discriminator import Discriminator
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.stages.base import Stage
from segrefinery.stages.optimizers import ScheduledOptimizer


@dataclass
class Pass:
    """One pass through a network, to be made again: of ``forward``, or of a segmenter's ``levels`` alone."""

    name: str
    network: nn.Module
    part: Callable[[Tensor], Any]
    image: Tensor
    gradients: bool
    trains: bool
    training: bool
    upstream: list[Tensor] | None = None

    def __call__(self) -> None:
        self.network.train(self.training)
        learns = [p for p in self.network.parameters() if p.requires_grad and not self.trains]
        for parameter in learns:
            parameter.requires_grad_(False)
        image = self.image.detach().requires_grad_(self.image.requires_grad)
        with torch.set_grad_enabled(self.gradients):
            seen = self.part(image)
        if self.gradients:
            outputs = [seen.logits, seen.aux_logits] if isinstance(seen, Prediction) else [seen]
            outputs = [one for one in outputs if one is not None]
            if self.upstream is None:
                self.upstream = [torch.full_like(one, 1e-6) for one in outputs]
            torch.autograd.backward(outputs, self.upstream)
        for parameter in learns:
            parameter.requires_grad_(True)


def networks(stage: Stage) -> dict[str, nn.Module]:
    """The outermost networks by name: a network inside a network is part of the latter's pass."""
    found: dict[str, nn.Module] = {}
    for name, module in stage.named_modules():
        if isinstance(module, Segmenter | Discriminator) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


@contextmanager
def recorded(stage: Stage) -> Iterator[list[Pass]]:
    """The passes that are made inside, as they are made."""
    passes: list[Pass] = []
    wrapped = []

    def watch(name: str, network: nn.Module, part: str) -> None:
        inner = getattr(network, part)

        def outer(image: Tensor) -> Any:
            trains = any(p.requires_grad for p in network.parameters())
            gradients = torch.is_grad_enabled() and (trains or image.requires_grad)
            passes.append(Pass(name, network, inner, image, gradients, trains, network.training))
            return inner(image)

        setattr(network, part, outer)
        wrapped.append((network, part))

    for name, network in networks(stage).items():
        watch(name, network, "forward")
        if isinstance(network, Segmenter) and name not in ("model", "teacher.network"):
            watch(name, network, "levels")
    yield passes
    for network, part in wrapped:
        delattr(network, part)


def replay(trained: dict[str, ScheduledOptimizer], passes: list[Pass]) -> Callable[[], None]:
    """The passes, with gradients that are ready made, and the optimizers' steps."""

    def work() -> None:
        for item in trained.values():
            item.optimizer.zero_grad(set_to_none=True)
        for one in passes:
            one()
        for item in trained.values():
            item.optimizer.step()

    return work
