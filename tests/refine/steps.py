"""What the tests of refiners make their steps of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrefinery.data.batch import LabeledBatch, MixedBatch
from segrefinery.models.teacher import TeacherView
from segrefinery.refine import Refiner, SourceStep, Step, TargetStep


def source_step(student: nn.Module, batch: LabeledBatch) -> SourceStep:
    return SourceStep(batch, student(batch.image))


def mixed_batch(
    image: Tensor, label: Tensor | None = None, weight: Tensor | None = None, pasted: Tensor | None = None
) -> MixedBatch:
    """By default nothing is pasted, every label is class 0 and weighs 1."""
    shape = (len(image), *image.shape[-2:])
    return MixedBatch(
        image,
        torch.zeros(shape, dtype=torch.long) if label is None else label,
        torch.ones(shape) if weight is None else weight,
        torch.zeros(shape, dtype=torch.bool) if pasted is None else pasted,
    )


def target_of(step: Step) -> TargetStep:
    assert step.target is not None
    return step.target


def view_of(step: Step) -> TeacherView:
    view = target_of(step).view
    assert view is not None
    return view


def finish(refiner: Refiner, step: Step) -> None:
    """What a stage asks of a refiner after an optimizer step of one micro-batch."""
    refiner.remember(step)
    refiner.after_step(step)
