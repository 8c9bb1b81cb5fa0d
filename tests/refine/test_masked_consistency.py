"""MIC: the mask, and what the student is asked for."""

import pytest
import torch
import torch.nn.functional as F

from refine.steps import mixed_batch, source_step, target_of, view_of
from segrefinery.core.randomness import generator
from segrefinery.losses import weighted_cross_entropy
from segrefinery.models.hrda import HRDA, HRDASettings
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.masked_consistency import MaskedConsistency, MaskedConsistencySettings, block_mask
from toys import ToySegmenter, labeled, toy_teacher, unlabeled


def make_step(student: torch.nn.Module | None = None) -> Step:
    torch.manual_seed(0)
    student = student or ToySegmenter()
    teacher = toy_teacher()
    view = teacher.view(unlabeled().image)
    labels = PseudoLabels.from_view(view).weighted(torch.full_like(view.logits[:, 0], 0.25))
    generators = [generator(0, "step", i) for i in range(2)]
    target = TargetStep(teacher, view, labels, mixed_batch(view.image), student(view.image))
    return Step(0, student, source_step(student, labeled()), target, generators=generators)


def test_mask_hides_whole_blocks():
    mask = block_mask((64, 96), 16, 0.5, [generator(0)])
    assert mask.shape == (1, 1, 64, 96)
    cells = mask.view(4, 16, 6, 16)
    assert (cells.amax(dim=(1, 3)) == cells.amin(dim=(1, 3))).all()
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_mask_keeps_one_minus_the_ratio():
    mask = block_mask((400, 400), 4, 0.7, [generator(0), generator(1)])
    assert mask.mean() == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(mask[0], mask[1])
    assert block_mask((8, 8), 4, 1.0, [generator(0)]).sum() == 0


def test_mask_rounds_its_grid():
    mask = block_mask((500, 700), 64, 0.7, [generator(2)])
    assert mask.shape == (1, 1, 500, 700)
    drawn = torch.rand(1, 8, 11, generator=generator(2)) > 0.7
    assert torch.equal(mask, F.interpolate(drawn.float()[None], (500, 700)))
    assert block_mask((10, 10), 64, 0.0, [generator(0)]).shape == (1, 1, 10, 10)


def test_same_generators_same_mask():
    a, b = (block_mask((32, 32), 8, 0.7, [generator(5, i) for i in range(2)]) for _ in range(2))
    assert torch.equal(a, b)


def test_loss_is_the_weighted_cross_entropy_of_the_masked_image():
    step = make_step()
    refiner = MaskedConsistency(MaskedConsistencySettings(block=8, weight=2.0))
    loss = refiner.losses(step)["masked"]
    mask = block_mask((32, 48), 8, 0.7, [generator(0, "step", i) for i in range(2)])
    full = target_of(step).labels.resize((32, 48))
    expected = 2 * weighted_cross_entropy(step.student(view_of(step).image * mask).logits, full.labels, full.weight)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert step.student.stem.weight.grad.abs().sum() > 0


def test_teacher_labels_keep_the_refined_weight():
    step = make_step()
    labels = target_of(step).labels
    target_of(step).labels = PseudoLabels(labels.probs.roll(1, dims=1), labels.weight)
    settings = MaskedConsistencySettings(ratio=0, labels="teacher")
    loss = MaskedConsistency(settings).losses(step)["masked"]
    teachers = PseudoLabels.from_view(view_of(step)).resize((32, 48)).labels
    logits = step.student(view_of(step).image).logits
    torch.testing.assert_close(loss, 0.25 * weighted_cross_entropy(logits, teachers))


def test_strong_view_is_a_switch():
    for strong, calls in ((True, 1), (False, 0)):
        step = make_step()
        seen = []
        step.strong = lambda image, seen=seen: seen.append(image) or image
        MaskedConsistency(MaskedConsistencySettings(strong=strong)).losses(step)
        assert len(seen) == calls


def test_rejected_pixels_teach_nothing():
    step = make_step()
    target_of(step).labels = target_of(step).labels.weighted(torch.zeros(2, 8, 12))
    assert MaskedConsistency().losses(step)["masked"] == 0


def test_silent_without_a_view():
    step = make_step()
    target_of(step).view = None
    assert MaskedConsistency().losses(step) == {}


def test_detail_learner_reads_its_own_box():
    step = make_step(HRDA(ToySegmenter(), HRDASettings(detail=16, divisor=8, attention_width=8)))
    losses = []
    for aux in (0.0, 0.1):
        step.generators = [generator(0, i) for i in range(2)]
        torch.manual_seed(0)
        losses.append(MaskedConsistency(MaskedConsistencySettings(aux_weight=aux)).losses(step)["masked"])
    assert losses[1] > losses[0]


def test_labels_pass_unchanged():
    step = make_step()
    assert MaskedConsistency()(view_of(step), target_of(step).labels) is target_of(step).labels
