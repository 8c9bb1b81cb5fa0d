"""What a refiner is: it turns what the teacher saw into better labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.pixelwise import highest, most_probable
from segrefinery.core.resize import bilinear, nearest
from segrefinery.data.batch import LabeledBatch, MixedBatch, UnlabeledBatch
from segrefinery.data.photometric import IMAGENET_MEAN, IMAGENET_STD, PerBand
from segrefinery.labels import IGNORE
from segrefinery.models.segmenter import Prediction
from segrefinery.models.teacher import Teacher, TeacherView


@dataclass
class PseudoLabels:
    """Soft labels and how far to trust them; nothing in it carries a gradient.

    Attributes:
        probs: B x C x h x w, sums to 1 over classes.
        weight: B x h x w in [0, 1]; 0 = learn nothing here. The one currency of reliability: refiners multiply it.
        aligned: whether the outermost cells lie in the corner pixels, as in ``Prediction``.
    """

    probs: Tensor
    weight: Tensor
    aligned: bool = False

    @classmethod
    def from_view(cls, view: TeacherView) -> PseudoLabels:
        """The teacher's own opinion, fully trusted: where every chain of refiners starts."""
        probs = view.probs
        return cls(probs, torch.ones_like(probs[:, 0]), view.aligned)

    @property
    def labels(self) -> Tensor:
        """B x h x w int64: the most probable class, 255 where the weight is 0."""
        return highest(self.probs).masked_fill(self.weight <= 0, IGNORE)

    def weighted(self, factor: Tensor) -> PseudoLabels:
        """The same labels, trusted ``factor`` (B x h x w, in [0, 1]) times as much."""
        return replace(self, weight=self.weight * factor.to(self.weight.dtype))

    def at(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Labels and weights B x H x W at another resolution, as those of ``resize``."""
        weight = nearest(self.weight, size, self.aligned)
        return most_probable(self.probs, size, self.aligned).masked_fill(weight <= 0, IGNORE), weight

    def resize(self, size: tuple[int, int]) -> PseudoLabels:
        """At another resolution: probabilities bilinear, weights nearest, so that a rejected pixel stays rejected."""
        if tuple(self.probs.shape[-2:]) == tuple(size):
            return self
        return PseudoLabels(bilinear(self.probs, size, self.aligned), nearest(self.weight, size, self.aligned))


@dataclass
class SourceStep:
    """The source's half of a step: a batch, and what the student said of it, with its graph."""

    batch: LabeledBatch
    prediction: Prediction


class NoSource(SourceStep):
    """The source's half of a step that has none. A refiner that asks for it should have declared ``needs_source``."""

    def __init__(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"source.{name}: there is no source here; the refiner's settings must say needs_source")


@dataclass
class TargetStep:
    """The target's half of a step.

    Attributes:
        teacher: in its state before the step.
        view: what it saw on the batch. None in an offline generation, whose labels were made before.
        labels: the refined labels, at the network's stride.
        mixed: what the student learned from.
        prediction: what the student said of ``mixed``, with its graph.
    """

    teacher: Teacher
    view: TeacherView | None
    labels: PseudoLabels
    mixed: MixedBatch
    prediction: Prediction


@dataclass
class Step:
    """All that a refiner's own losses may look at in one training step.

    With ``training.accumulate`` an optimizer step has several micro-batches, each of which is a ``Step``.

    Attributes:
        number: optimizer step, counted from 0.
        student: the network in training; call it for further passes (masked images, strong views).
        source, target: the halves of the step; a supervised stage has no target, a source-free one ``NoSource``.
        strong: turns a normalised image B x 3 x H x W into the stage's strong (photometric) view, same geometry.
        normalization: mean and standard deviation of the images' pixels, for colour changes.
        generators: one random generator an image, a function of (seed, step, place in the global batch).
    """

    number: int
    student: nn.Module
    source: SourceStep
    target: TargetStep | None = None
    strong: Callable[[Tensor], Tensor] = lambda image: image
    normalization: tuple[PerBand, PerBand] = (IMAGENET_MEAN, IMAGENET_STD)
    generators: list[torch.Generator] = field(default_factory=list)


class Refiner(nn.Module):
    """One idea of how to make pseudo-labels better. Everything it learns or remembers is a parameter or a buffer.

    The default of every method changes nothing, so a refiner overrides only what its idea needs. Parameters that
    require gradients join the stage's optimizer at ``learning_rate_factor`` times its base rate; None leaves the factor
    to the optimizer's settings (``refiner_factor``). With an ``sgd_rate`` they are moved by SGD at that rate instead,
    on the stage's schedule: for losses whose weight is to count.
    """

    learning_rate_factor: float | None = None
    sgd_rate: float | None = None
    reads_features: bool = False
    """Whether what it learns is of the features of the network it learns beside, so that with a newly built network it
    begins anew. SAM's attention is made for new networks and does not."""

    def fit(self, teacher: Teacher, source: Iterable[LabeledBatch], target: Iterable[UnlabeledBatch]) -> None:
        """Look at the data once before a generation. Both iterables may be walked more than once; images come whole
        and un-augmented, in order; without a source there are none of it. Must stream: its memory must not grow with
        the number of images."""

    def forward(self, view: TeacherView, labels: PseudoLabels) -> PseudoLabels:
        """Better labels of the same shape. Runs without gradients; starts from ``labels``, not from ``view.logits``,
        wherever it can, so that refiners stack."""
        return labels

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Named scalar losses of its own, already weighted."""
        return {}

    def remember(self, step: Step) -> None:
        """Take in what a step showed: memories, prototypes, class distributions. Called for every micro-batch, without
        gradients, after the optimizer and the teacher moved and before ``after_step``."""

    def after_step(self, step: Step) -> None:
        """Move what follows the training: momentum copies, counters. Called once an optimizer step, however many
        micro-batches it has, with the last of them; without gradients."""

    def predictor(self, segmenter: nn.Module) -> nn.Module:
        """The network to evaluate and to ship: the segmenter itself, unless the refiner also acts at inference."""
        return segmenter
