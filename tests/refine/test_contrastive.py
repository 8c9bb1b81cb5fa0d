"""Which pixels are drawn, and what the contrastive refiner learns from."""

from __future__ import annotations

import pytest
import torch

from refine.steps import mixed_batch, source_step, target_of
from segrefinery.core.randomness import generator
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.contrastive import PixelContrast, PixelContrastSettings, sample_anchors
from toys import ToySegmenter, labeled, toy_teacher, toy_view, unlabeled


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [generator(seed, place) for place in range(count)]


def test_half_hard_half_easy_and_only_frequent_labelled_classes():
    label = torch.tensor([0] * 30 + [1] * 30 + [2] * 5 + [255] * 30)
    wrong = torch.zeros(95, dtype=torch.bool)
    wrong[:15] = True  # class 0: half wrong
    wrong[30:32] = True  # class 1: two wrong
    (drawn,) = sample_anchors([label], [wrong], generators(1), min_pixels=5, samples=40, samples_per_class=12)
    assert len(drawn) == len(drawn.unique()) == 24
    for kind, hard in ((0, 6), (1, 2)):
        chosen = drawn[label[drawn] == kind]
        assert len(chosen) == 12
        assert int(wrong[chosen].sum()) == hard
    assert not wrong[drawn].all()


def test_the_pool_is_shared_and_small_classes_give_all_they_have():
    first, second = torch.tensor([0] * 20 + [1] * 3), torch.tensor([1] * 50)
    nothing_wrong = [torch.zeros(len(label), dtype=torch.bool) for label in (first, second)]
    drawn = sample_anchors([first, second], nothing_wrong, generators(1), min_pixels=2, samples=24)
    assert [len(pixels) for pixels in drawn] == [8 + 3, 8]
    everything_wrong = [~one for one in nothing_wrong]
    drawn = sample_anchors([first, second], everything_wrong, generators(1), min_pixels=2, samples=24)
    assert [len(pixels) for pixels in drawn] == [8 + 3, 8]


def test_no_class_qualifies():
    label = torch.full((9,), 255)
    assert [len(pixels) for pixels in sample_anchors([label], [label == 0], generators(1), min_pixels=0)] == [0]


def test_drawing_is_a_function_of_the_generators():
    label, wrong = [torch.arange(300) % 3], [torch.arange(300) % 2 == 0]
    draws = [sample_anchors(label, wrong, generators(1, seed), 5, 30, 10)[0] for seed in (0, 0, 1)]
    torch.testing.assert_close(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def build(**settings) -> tuple[ToySegmenter, PixelContrast]:
    torch.manual_seed(0)
    student = ToySegmenter()
    return student, PixelContrastSettings(width=16, min_pixels=2, **settings).build(student)


def step_of(student: ToySegmenter, number: int = 0, target_size: tuple[int, int] = (32, 48)) -> Step:
    mixed = mixed_batch(unlabeled(size=target_size).image, labeled(seed=3, size=target_size).label)
    labels = PseudoLabels.from_view(toy_view())
    target = TargetStep(toy_teacher(), None, labels, mixed, student(mixed.image))
    return Step(number, student, source_step(student, labeled()), target, generators=generators(2))


def test_it_trains_encoder_and_projection():
    student, refiner = build(warmup=0)
    loss = refiner.losses(step_of(student))["pixel_contrast"]
    loss.backward()
    assert loss > 0
    assert student.stem.weight.grad is not None
    assert student.deep.weight.grad is not None
    assert all(parameter.grad is not None for parameter in refiner.parameters())
    assert student.classifier.weight.grad is None


def test_domains_of_different_size():
    student, refiner = build(warmup=0)
    assert refiner.losses(step_of(student, target_size=(48, 40)))["pixel_contrast"].isfinite()


@pytest.mark.parametrize("how", ["weight", "pasted"])
def test_pixels_without_weight_and_pasted_ones_stay_out(how):
    student, refiner = build(warmup=0)
    refiner.eval()
    step = step_of(student)
    target_of(step).mixed.label.fill_(255)
    without_target = refiner.losses(step)["pixel_contrast"]

    step = step_of(student)
    if how == "weight":
        target_of(step).mixed.weight.zero_()
    else:
        target_of(step).mixed.pasted.fill_(True)
    torch.testing.assert_close(refiner.losses(step)["pixel_contrast"], without_target)
    assert not torch.equal(refiner.losses(step_of(student))["pixel_contrast"], without_target)


def test_nothing_to_learn_from_is_zero():
    student, refiner = build(warmup=0)
    step = step_of(student)
    target_of(step).mixed.label.fill_(255)
    step.source.batch.label.fill_(255)
    loss = refiner.losses(step)["pixel_contrast"]
    loss.backward()
    assert loss == 0


def test_it_waits_for_the_warmup_and_for_a_target():
    student, refiner = build(warmup=5)
    assert refiner.losses(step_of(student, number=4)) == {}
    assert refiner.losses(step_of(student, number=5)) != {}
    assert refiner.losses(Step(9, student, source_step(student, labeled()))) == {}
