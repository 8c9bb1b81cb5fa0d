import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segrefinery.data.batch import MixedBatch
from segrefinery.refine.base import PseudoLabels, SourceStep, Step, TargetStep
from segrefinery.refine.class_balanced import (
    ClassBalanced,
    ClassBalancedSettings,
    InstanceAdaptive,
    InstanceAdaptiveSettings,
    balanced_scores,
)
from segrefinery.refine.confidence import class_thresholds
from toys import ToySegmenter, labeled, toy_teacher, toy_view, unlabeled


def pixel(*probs: float) -> PseudoLabels:
    return PseudoLabels(torch.tensor(probs)[None, :, None, None], torch.ones(1, 1, 1))


def refiner(thresholds, **settings) -> ClassBalanced:
    """With a histogram that gives these thresholds: all of a class in one bin."""
    own = ClassBalanced(ClassBalancedSettings(bins=10, **settings), len(thresholds))
    for c, threshold in enumerate(thresholds):
        if threshold:
            own.histogram[c, round(threshold * 10)] = 100
    return own


def test_argmax_is_reweighted():
    own = refiner([0.9, 0.3])
    seen = own(toy_view(), pixel(0.6, 0.4))
    assert seen.labels.item() == 1  # 0.4 / 0.3 beats 0.6 / 0.9
    assert seen.probs.flatten().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert refiner([0.9, 0.5])(toy_view(), pixel(0.6, 0.4)).weight.item() == 0  # no score reaches 1
    assert refiner([0.9, 0.5])(toy_view(), pixel(0.4, 0.6)).labels.item() == 1


def test_a_class_never_predicted_competes_with_its_plain_probability():
    scores = balanced_scores(pixel(0.5, 0.3, 0.2).probs, torch.tensor([0.8, 0.5, 0.0]))
    assert scores.flatten().tolist() == pytest.approx([0.625, 0.6, 0.2])
    assert refiner([0, 0])(toy_view(), pixel(0.6, 0.4)).weight.sum() == 0  # nothing gathered, nothing kept


def test_lrent_labels_and_selection():
    own = refiner([0.9, 0.5], kind="lrent")
    scores = torch.tensor([0.6 / 0.9, 0.4 / 0.5])
    seen = own(toy_view(), pixel(0.6, 0.4))
    assert seen.probs.flatten().tolist() == pytest.approx((scores**4 / (scores**4).sum()).tolist(), rel=1e-4)
    for first in (0.05, 0.4, 0.5, 0.6, 0.8, 0.88):
        p, t = torch.tensor([first, 1 - first], dtype=torch.float64), torch.tensor([0.9, 0.5], dtype=torch.float64)
        y = (p / t) ** 4 / ((p / t) ** 4).sum()
        energy = -(y * p.log()).sum() + 0.25 * (y * y.log()).sum()
        expected = energy < -(y * t.log()).sum()
        assert bool(own(toy_view(), pixel(first, 1 - first)).weight.item()) == bool(expected)


def test_fit_keeps_the_portion_of_each_class():
    teacher, target = toy_teacher(), unlabeled(4, (64, 64))
    own = ClassBalanced(ClassBalancedSettings(portion=0.3), 5)
    own.fit(teacher, [], [target])
    view = teacher.view(target.image)
    confidence, label = view.probs.max(1)
    thresholds = class_thresholds(own.histogram, 0.3, 1.0)
    for c in range(5):
        if (label == c).sum() > 100:
            assert (confidence[label == c] >= thresholds[c]).float().mean() == pytest.approx(0.3, abs=0.02)


def test_mrkld_by_hand_on_learned_target_pixels_only():
    torch.manual_seed(0)
    net, source = ToySegmenter(), labeled()
    label = torch.full((2, 32, 48), 255)
    label[0, :16] = 1
    pasted = torch.zeros(2, 32, 48, dtype=torch.bool)
    pasted[0, :8] = True
    weight = torch.ones(2, 32, 48)
    weight[0, :, :24] = 0
    seen = net(source.image)
    teacher, mixed = toy_teacher(), MixedBatch(source.image, label, weight, pasted)
    target = TargetStep(teacher, None, PseudoLabels.from_view(toy_view()), mixed, seen)
    step = Step(0, net, SourceStep(source, seen), target)
    big = torch.nn.functional.interpolate(seen.logits, (32, 48), mode="bilinear").log_softmax(1)
    expected = 0.1 * -big[0, :, 8:16, 24:].mean()
    own = ClassBalanced(ClassBalancedSettings(kind="mrkld"), 5)
    assert torch.allclose(own.losses(step)["mrkld"], expected, atol=1e-6)
    label.fill_(255)
    assert own.losses(step)["mrkld"] == 0
    assert own.losses(Step(0, net, SourceStep(source, seen))) == {}
    assert ClassBalanced(ClassBalancedSettings(), 5).losses(step) == {}


def test_iast_by_hand():
    own = InstanceAdaptive(InstanceAdaptiveSettings(), 2)
    confidence = torch.tensor([[[0.5, 0.6, 0.95, 0.99]]])
    labels = PseudoLabels(torch.stack((confidence, 1 - confidence), 1), torch.ones(1, 1, 4))
    share = 1 - 0.2 * 0.9**8
    percentile = np.percentile([0.5, 0.6, 0.95, 0.99, 0.9], 100 * share)
    threshold = 0.9 * 0.9 + 0.1 * percentile
    expected = [float(value >= threshold) for value in (0.5, 0.6, 0.95, 0.99)]
    assert own(toy_view(), labels).weight.flatten().tolist() == expected
    assert own.thresholds.tolist() == pytest.approx([0.9, 0.9])
    own.after_step(SimpleNamespace(target=SimpleNamespace(view=True)))  # pyright: ignore[reportArgumentType]
    assert own.thresholds.tolist() == pytest.approx([threshold, 0.9])


def test_iast_cap_and_fit():
    own = InstanceAdaptive(InstanceAdaptiveSettings(start=0.999), 5)
    teacher = toy_teacher()
    own.fit(teacher, [], [unlabeled(2)])
    first = own.thresholds.clone()
    assert (first <= 0.999).all()
    assert (first < 0.999).any()
    own.fit(teacher, [], [unlabeled(1, seed=1), unlabeled(1, seed=1)])
    own.fit(teacher, [], [unlabeled(2)])
    assert torch.equal(own.thresholds, first)
    assert not math.isnan(first.sum())
