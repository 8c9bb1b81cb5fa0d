import math
from types import SimpleNamespace

import pytest
import torch

from segrefinery.refine.base import PseudoLabels
from segrefinery.refine.confidence import (
    ConfidenceShare,
    ConfidenceShareSettings,
    ConfidenceThreshold,
    ConfidenceThresholdSettings,
    class_thresholds,
    confidence_histogram,
    normalized_entropy,
)
from toys import toy_teacher, toy_view, unlabeled


def labels_of(confidence: torch.Tensor, label: torch.Tensor, classes: int = 3) -> PseudoLabels:
    """B x h x w confidences and classes -> labels with the rest spread evenly."""
    probs = ((1 - confidence) / (classes - 1))[:, None].repeat(1, classes, 1, 1)
    probs.scatter_(1, label[:, None], confidence[:, None])
    return PseudoLabels(probs, torch.ones_like(confidence))


def test_entropy_by_hand():
    probs = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]])
    assert normalized_entropy(probs).tolist() == pytest.approx([0.0, 1.0, 0.5])
    assert normalized_entropy(probs.t(), dim=0).tolist() == pytest.approx([0.0, 1.0, 0.5])
    three = normalized_entropy(torch.tensor([[0.7, 0.2, 0.1]]))
    expected = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert three.item() == pytest.approx(expected)


def test_entropy_stays_in_range_in_low_precision_and_needs_two_classes():
    probs = torch.randn(2, 7, 3, 3).softmax(1).bfloat16()
    entropy = normalized_entropy(probs)
    assert entropy.dtype == torch.float32
    assert entropy.shape == (2, 3, 3)
    assert 0 <= entropy.min() <= entropy.max() <= 1
    with pytest.raises(ValueError, match="probs"):
        normalized_entropy(torch.ones(2, 1, 3, 3))


def test_class_thresholds_by_hand():
    histogram = torch.zeros(4, 10)
    histogram[0, 2:6] = torch.tensor([10.0, 20.0, 30.0, 40.0])  # .2 .3 .4 .5
    histogram[1, 9] = 5  # ties: all in one bin
    histogram[3, 4] = 7
    assert class_thresholds(histogram, 0.5, 1.0).tolist() == pytest.approx([0.4, 0.9, 0.0, 0.4])
    assert class_thresholds(histogram, 0.4, 1.0)[0] == pytest.approx(0.5)  # exactly the top bin
    assert class_thresholds(histogram, 0.41, 1.0)[0] == pytest.approx(0.4)
    assert class_thresholds(histogram, 1.0, 1.0).tolist() == pytest.approx([0.2, 0.9, 0.0, 0.4])
    assert class_thresholds(histogram, 0.5, 0.3).tolist() == pytest.approx([0.3, 0.3, 0.0, 0.3])


def test_class_thresholds_agree_with_sorting():
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(5001, generator=rng)
    histogram = torch.histc(values, 1000, 0, 1)[None]
    ranked = values.sort(descending=True).values
    for portion in (0.2, 0.34, 0.5):
        exact = ranked[int(portion * len(ranked))]
        assert abs(class_thresholds(histogram, portion, 1.0) - exact) < 2e-3


@pytest.mark.parametrize("bad", [{"histogram": torch.zeros(5)}, {"portion": 1.5}, {"portion": -0.1}])
def test_class_thresholds_refuse_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        class_thresholds(**{"histogram": torch.zeros(2, 5)} | bad)


def test_histogram_counts_the_predicted_class_and_skips_nan():
    labels = labels_of(torch.tensor([[[0.95, 0.55, 1.0]]]), torch.tensor([[[0, 2, 0]]]))
    histogram = confidence_histogram(labels.probs, 10)
    assert histogram[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert histogram[2, 5] == 1
    assert histogram.sum() == 3
    labels.probs[:, :, 0, 0] = float("nan")
    assert confidence_histogram(labels.probs, 10).sum() == 2


def test_fixed_threshold():
    refiner = ConfidenceThreshold(ConfidenceThresholdSettings(threshold=0.75, classes="none"), 3)
    labels = labels_of(torch.tensor([[[0.7, 0.75, 0.8, float("nan")]]]), torch.zeros(1, 1, 4, dtype=torch.long))
    assert refiner(toy_view(), labels).weight.tolist() == [[[0, 1, 1, 0]]]
    with pytest.raises(ValueError, match="nothing to threshold"):
        ConfidenceThresholdSettings(classes="none")


def test_fitted_thresholds_keep_half_of_every_class():
    teacher, target = toy_teacher(), unlabeled(batch=4, size=(64, 64))
    refiner = ConfidenceThreshold(ConfidenceThresholdSettings(cap=1.0), 5)
    refiner.fit(teacher, [], [target])
    view = teacher.view(target.image)
    kept = refiner(view, PseudoLabels.from_view(view)).weight
    label = view.probs.argmax(1)
    for c in range(5):
        here = label == c
        if here.sum() > 50:
            assert 0.5 <= kept[here].mean() < 0.6
    again = ConfidenceThreshold(ConfidenceThresholdSettings(cap=1.0), 5)
    again.load_state_dict(refiner.state_dict())
    assert torch.equal(again(view, PseudoLabels.from_view(view)).weight, kept)
    refiner.fit(teacher, [], [target])  # a second generation forgets the first
    assert torch.equal(refiner.histogram, again.histogram)


def test_running_thresholds_move_only_after_a_step():
    refiner = ConfidenceThreshold(ConfidenceThresholdSettings(classes="running", momentum=0.5, cap=1.0), 5)
    view = toy_view()
    labels = PseudoLabels.from_view(view)
    first = refiner(view, labels).weight
    assert 0.4 < first.mean() < 0.7
    assert torch.equal(refiner(view, labels).weight, first)
    assert refiner.histogram.sum() == 0
    refiner.after_step(SimpleNamespace(target=SimpleNamespace(view=True)))  # pyright: ignore[reportArgumentType]
    assert refiner.histogram.sum() == pytest.approx(0.75 * first.numel())  # two micro-batches
    before = refiner.histogram.clone()
    refiner.after_step(SimpleNamespace(target=SimpleNamespace(view=True)))  # pyright: ignore[reportArgumentType]
    assert torch.equal(refiner.histogram, before)


def test_share_per_image_and_per_batch():
    confidence = torch.tensor([[[0.99, 0.968, 0.5, 0.99]], [[0.5, 0.5, 0.5, 0.99]]])
    labels = labels_of(confidence, torch.zeros(2, 1, 4, dtype=torch.long))
    paper = ConfidenceShare(ConfidenceShareSettings())(toy_view(), labels).weight
    assert paper[:, 0, 0].tolist() == [0.5, 0.25]
    assert (paper == paper[:, :, :1]).all()
    # 0.968 itself counts in the official reading; float32 cannot say 0.968 exactly, so a dyadic threshold is used
    official = ConfidenceShareSettings(preset="official", threshold=0.5)
    assert ConfidenceShare(official)(toy_view(), labels).weight.unique().tolist() == [1.0]
    assert ConfidenceShare(ConfidenceShareSettings(threshold=0.5))(toy_view(), labels).weight[1, 0, 0] == 0.25


def test_share_ignores_rows_and_respects_earlier_weights():
    labels = labels_of(torch.full((1, 4, 2), 0.99), torch.zeros(1, 4, 2, dtype=torch.long))
    labels.weight[0, 1, 0] = 0.5
    weight = ConfidenceShare(ConfidenceShareSettings(ignored_rows=(0.25, 0.5)))(toy_view(), labels).weight
    assert weight[0].tolist() == [[0, 0], [0.5, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("logits", [[200.0, 0.0, 0.0], [1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
def test_entropy_has_a_finite_gradient_where_a_probability_is_zero(logits):
    scores = torch.tensor([logits], requires_grad=True)
    normalized_entropy(scores.softmax(1)).sum().backward()
    assert scores.grad.abs().max() < 1e-6


@pytest.mark.parametrize("cap", [-0.1, 1.1])
def test_class_thresholds_refuse_a_cap_that_is_no_confidence(cap):
    with pytest.raises(ValueError, match="cap"):
        class_thresholds(torch.ones(2, 10), cap=cap)
