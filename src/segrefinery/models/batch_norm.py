"""Batch norm's running statistics: measured anew on other images, or left alone for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    """Those that keep running statistics."""
    layers = (module for module in network.modules() if isinstance(module, BatchNorm))
    return [module for module in layers if module.track_running_stats]


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Means and variances of its batch norms, the tensors themselves, in order."""
    both = (buffer for norm in batch_norms(network) for buffer in (norm.running_mean, norm.running_var))
    return [buffer for buffer in both if buffer is not None]


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Replace the running statistics by the mean of those of ``images``, batches of B x bands x H x W, streaming;
    every other module stays as in evaluation (Li et al., "Revisiting Batch Normalization for Practical Domain
    Adaptation", 2016). A norm that sees one value a channel, behind a pooling of one whole image, keeps what it had.
    Without a batch norm nothing is looked at."""
    norms = batch_norms(network)
    if not norms:
        return
    before, was_training = [norm.momentum for norm in norms], network.training
    network.eval()
    hooks = [norm.register_forward_pre_hook(_start_anew) for norm in norms]
    for number, image in enumerate(images):
        network(image)
        if number == 0:
            for hook in hooks:
                hook.remove()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.train(was_training)


def _start_anew(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Before the first image: forget, and take the plain mean over batches from here on."""
    assert isinstance(norm, BatchNorm)
    if inputs[0].numel() > norm.num_features:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()


@contextmanager
def unmoved_statistics(network: nn.Module, unmoved: bool = True) -> Iterator[None]:
    """Within, a pass in training mode normalises by its batch and leaves the running statistics as they are."""
    norms = batch_norms(network) if unmoved else []
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
