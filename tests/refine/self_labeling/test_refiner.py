"""CPSL as a refiner: where gradients go, what is remembered, every ablation, and bad input."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from refine.steps import finish, mixed_batch, source_step, target_of, view_of
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.labels import LabelSpace
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.self_labeling.formulas import sinkhorn
from segrefinery.refine.self_labeling.refiner import SelfLabeling, SelfLabelingSettings
from toys import ToySegmenter, labeled, toy_teacher, unlabeled

pytestmark = pytest.mark.filterwarnings("ignore:the teacher labels hardly any")


def space_of(classes):
    return LabelSpace.of("toys", [f"class {index}" for index in range(classes)])


def built(classes=5, fitted=True, **settings) -> SelfLabeling:
    torch.manual_seed(3)
    settings = SelfLabelingSettings(**{"bank": 150, "samples": 40, **settings})
    refiner = settings.build(ToySegmenter(classes), space_of(classes))
    if fitted:
        refiner.fit(toy_teacher(classes), [labeled(classes=classes)], [unlabeled(), unlabeled(seed=9)])
    return refiner


def step_of(refiner, number=0, classes=5, student=None, spoil=1.0):
    torch.manual_seed(number)
    source, target = labeled(classes=classes), unlabeled(seed=number + 1)
    teacher = toy_teacher(classes)
    view = teacher.view(target.image * spoil)
    student = student or ToySegmenter(classes)
    labels = PseudoLabels.from_view(view)
    if math.isfinite(spoil):
        labels = refiner(view, labels)
    random = [generator(number, slot) for slot in range(len(target.image))]
    learned = TargetStep(teacher, view, labels, mixed_batch(target.image), student(target.image))
    halves = source_step(student, source), learned
    return Step(number, student, *halves, strong=lambda image: image * 1.1, generators=random)


def run(refiner, steps):
    found = []
    for number in steps:
        step = step_of(refiner, number)
        losses = refiner.losses(step)
        with torch.no_grad():
            gradient = torch.autograd.grad(losses["self_labeling"], refiner.head, retain_graph=True)[0]
            refiner.head -= 0.1 * gradient
        finish(refiner, step)
        found.append({name: loss.detach() for name, loss in losses.items()})
    return found


def test_labels_are_clusters_times_the_warmup_networks_labels():
    refiner = built()
    view = toy_teacher(seed=4).view(unlabeled().image)
    found = refiner(view, PseudoLabels.from_view(view))
    warm = toy_teacher().view(view.image).probs
    cosines = F.conv2d(F.normalize(view.features, dim=1), F.normalize(refiner.head_copy, dim=1)[:, :, None, None])
    product = (cosines / 0.08).softmax(1) * warm
    torch.testing.assert_close(found.probs, product / product.sum(1, keepdim=True))
    assert (found.weight == 1).all()


def test_the_warmup_network_stays_and_a_chain_can_take_its_place():
    refiner = built()
    assert refiner.warmup is not None
    refiner.train()
    assert not any(module.training for module in refiner.warmup.modules())
    assert not any(parameter.requires_grad for parameter in refiner.warmup.parameters())
    chained = built(soft_labels="chain")
    assert not any(name.startswith("warmup") for name in chained.state_dict())
    view = toy_teacher().view(unlabeled().image)
    certain = F.one_hot(torch.full((2, 8, 12), 3), 5).movedim(-1, 1).float()
    found = chained(view, PseudoLabels(certain, torch.full((2, 8, 12), 0.5)))
    assert (found.labels == 3).all()
    assert (found.weight == 0.5).all()


def test_fit_starts_the_head_at_the_prototypes_of_unit_features():
    refiner = built()
    batches = [unlabeled(), unlabeled(seed=9)]
    views = [toy_teacher().view(batch.image) for batch in batches]
    features = torch.cat([F.normalize(view.features, dim=1).movedim(1, -1).flatten(0, 2) for view in views])
    labels = torch.cat([view.logits.argmax(1).flatten() for view in views])
    common = int(labels.mode().values)
    expected = F.normalize(features[labels == common].mean(0), dim=0)
    torch.testing.assert_close(refiner.head[common].detach(), expected)
    torch.testing.assert_close(refiner.head_copy, refiner.head.detach())
    torch.testing.assert_close(refiner.distribution, torch.bincount(labels, minlength=5) / len(labels))


def test_self_labeling_loss_is_the_cross_entropy_to_the_assignment():
    refiner = built(consistency_weight=0.0, samples=96)  # all pixels of a toy image, in some order
    step = step_of(refiner)
    loss = refiner.losses(step)["self_labeling"]
    features = F.normalize(view_of(step).features, dim=1).movedim(1, -1).flatten(0, 2)
    scores = features @ F.normalize(refiner.head.detach(), dim=1).T
    target = sinkhorn(scores, refiner.distribution)
    expected = -(target * (scores / 0.08).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss.detach(), 0.1 * expected)


def test_each_loss_reaches_only_what_it_trains():
    refiner = built()
    step = step_of(refiner)
    losses = refiner.losses(step)
    assert set(losses) == {"self_labeling", "consistency"}
    losses["self_labeling"].backward()
    assert refiner.head.grad is not None
    assert refiner.head.grad.any()
    assert all(parameter.grad is None for parameter in step.student.parameters())
    refiner.head.grad = None
    losses["consistency"].backward()
    assert refiner.head.grad is None
    assert any(parameter.grad is not None for parameter in step.student.parameters())
    assert all(parameter.grad is None for parameter in target_of(step).teacher.parameters())


def test_after_step_moves_bank_head_and_distribution():
    refiner = built(head_momentum=0.9, distribution_momentum=0.5)
    step = step_of(refiner)
    before, share = refiner.head_copy.clone(), refiner.distribution.clone()
    refiner.losses(step)
    assert len(refiner.bank) == 0
    with torch.no_grad():
        refiner.head += 1.0
    finish(refiner, step)
    torch.testing.assert_close(refiner.head_copy, before + 0.1)
    assert len(refiner.bank) == 80
    torch.testing.assert_close(refiner.bank.content.norm(dim=1), torch.ones(80))
    new = torch.bincount(target_of(step).labels.labels.flatten(), minlength=5) / target_of(step).labels.labels.numel()
    torch.testing.assert_close(refiner.distribution, 0.5 * share + 0.5 * new)


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_a_run_that_is_cut_continues_bit_for_bit(preset):
    whole = built(preset=preset, samples=40)
    first = run(whole, range(3))
    resumed = built(preset=preset, samples=40, fitted=False)
    cut = built(preset=preset, samples=40)
    run(cut, range(3))
    resumed.load_state_dict(copy.deepcopy(cut.state_dict()))
    assert first[0].keys() == {"self_labeling", "consistency"}
    for one, other in zip(run(whole, range(3, 6)), run(resumed, range(3, 6)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(
        torch.equal(one, other) for one, other in zip(whole.state_dict().values(), resumed.state_dict().values())
    )


@pytest.mark.parametrize("consistency", ["symmetric", "clusters"])
def test_the_divisor_takes_the_consistency_over_classes_too(consistency):
    found = []
    for divisor in ("pixels", "elements"):
        refiner = built(consistency=consistency, divisor=divisor, self_labeling_weight=0.0)
        found.append(refiner.losses(step_of(refiner))["consistency"].item())
    assert found[1] == pytest.approx(found[0] / 5)


def test_the_official_preset_averages_raw_features_and_then_normalises():
    refiner = built(preset="official", initial="pixels")
    views = [toy_teacher().view(batch.image) for batch in (unlabeled(), unlabeled(seed=9))]
    features = torch.cat([view.features.movedim(1, -1).flatten(0, 2) for view in views])
    labels = torch.cat([view.logits.argmax(1).flatten() for view in views])
    common = int(labels.mode().values)
    expected = F.normalize(features[labels == common].mean(0), dim=0)
    torch.testing.assert_close(refiner.head[common].detach(), expected)


def test_official_preset():
    settings = SelfLabelingSettings(preset="official")
    assert settings.samples == 256
    assert settings.sampling == "uniform"
    assert settings.distribution_momentum == 1.0
    assert SelfLabelingSettings(preset="official", samples=512).samples == 512
    assert SelfLabelingSettings.model_validate(settings.model_dump()) == settings
    refiner = built(preset="official")
    share = refiner.distribution.clone()
    run(refiner, range(2))
    assert torch.equal(refiner.distribution, share)
    assert refiner.logit_bank is not None
    assert len(refiner.logit_bank) == 150


def test_each_image_in_turn_sees_the_ones_before_it_and_so_many_old_rows_less():
    refiner = built(assign="image", bank=100)
    torch.manual_seed(0)
    refiner.bank.push(torch.randn(130, 8))
    bank_scores = torch.randn(100, 5).clamp(-1, 1)
    scores = torch.randn(60, 5).clamp(-1, 1)
    found = refiner.assign(refiner.bank, bank_scores, scores, [20, 40])
    by_age = torch.cat([bank_scores[30:], bank_scores[:30]])
    first = sinkhorn(torch.cat([by_age, scores[:20]]), refiner.distribution)[-20:]
    second = sinkhorn(torch.cat([by_age[20:], scores]), refiner.distribution)[-40:]
    torch.testing.assert_close(found, torch.cat([first, second]))


def test_a_bank_that_is_not_full_is_used_or_waited_for():
    for waits, rows in ((False, 90), (True, 40)):
        refiner = built(wait_for_bank=waits)
        refiner.bank.push(torch.randn(50, 8))
        scores, bank_scores = torch.rand(40, 5), torch.rand(50, 5)
        table = torch.cat([bank_scores, scores])[-rows:]
        expected = sinkhorn(table, refiner.distribution)[-40:]
        torch.testing.assert_close(refiner.assign(refiner.bank, bank_scores, scores, [40]), expected)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"labels": "soft_labels", "self_labeling_weight": 0.0}, {"consistency"}),  # w/o SL
        ({"sampling": "uniform", "marginal": "uniform"}, {"self_labeling", "consistency"}),  # w/o CB
        ({"labels": "clusters"}, {"self_labeling", "consistency"}),  # w/o ST
        ({"initial": "random"}, {"self_labeling", "consistency"}),  # w/o Init
        ({"consistency_weight": 0.0}, {"self_labeling"}),  # w/o Aug
        ({"head_momentum": 0.0}, {"self_labeling", "consistency"}),  # w/o Mom
        ({"strong_view": None}, {"self_labeling", "consistency"}),
        ({"initial": "images", "consistency": "clusters"}, {"self_labeling", "consistency"}),
    ],
)
def test_every_component_can_be_switched_off(settings, names):
    refiner = built(**settings)
    step = step_of(refiner)
    losses = refiner.losses(step)
    finish(refiner, step)
    assert set(losses) == names
    assert all(loss.isfinite() for loss in losses.values())


def test_without_self_labeling_the_labels_are_those_of_the_warmup_network():
    refiner = built(labels="soft_labels")
    view = toy_teacher(seed=4).view(unlabeled().image)
    torch.testing.assert_close(refiner(view, PseudoLabels.from_view(view)).probs, toy_teacher().view(view.image).probs)


def test_without_self_training_the_labels_are_the_clusters_alone():
    refiner, view = built(labels="clusters"), toy_teacher(seed=4).view(unlabeled().image)
    cosines = F.conv2d(F.normalize(view.features, dim=1), F.normalize(refiner.head_copy, dim=1)[:, :, None, None])
    found = refiner(view, PseudoLabels.from_view(view)).probs
    torch.testing.assert_close(found, (cosines / 0.08).softmax(1))


def test_random_start_is_no_prototype():
    assert not torch.allclose(built(initial="random").head, built().head)


def test_a_class_without_any_label_stays_finite():
    refiner = built(fitted=False)
    teacher = toy_teacher()
    with torch.no_grad():
        teacher.network.classifier.bias[3] = -1e3
    source = labeled()
    source.label[source.label == 3] = 255
    with pytest.warns(UserWarning, match="class 3"):
        refiner.fit(teacher, [source], [unlabeled()])
    assert refiner.distribution[3] == 0
    for losses in run(refiner, range(4)):
        assert all(loss.isfinite() for loss in losses.values())
    assert all(value.isfinite().all() for value in refiner.state_dict().values())


def test_two_classes_and_images_smaller_than_the_draw():
    refiner = built(classes=2, samples=500, bank=100)
    step = step_of(refiner, classes=2)
    assert all(loss.isfinite() for loss in refiner.losses(step).values())
    finish(refiner, step)
    assert len(refiner.bank) == 100


def test_nothing_to_learn_from():
    refiner = built()
    step = step_of(refiner)
    target_of(step).labels = target_of(step).labels.weighted(torch.zeros(2, 8, 12))
    share = refiner.distribution.clone()
    assert refiner.losses(step)["self_labeling"] == 0
    finish(refiner, step)
    assert len(refiner.bank) == 0
    assert torch.equal(refiner.distribution, share)


def test_features_that_are_not_finite_are_named_and_not_remembered():
    refiner = built()
    step = step_of(refiner, spoil=float("nan"))
    with pytest.raises(SegRefineryError, match="NaN"):
        refiner(view_of(step), PseudoLabels.from_view(view_of(step)))
    with pytest.raises(SegRefineryError, match="NaN"):
        refiner.losses(step)
    assert len(refiner.bank) == 0


def test_a_supervised_stage_asks_for_nothing():
    refiner, source = built(), labeled()
    student = ToySegmenter()
    step = Step(0, student, source_step(student, source))
    assert refiner.losses(step) == {}
    finish(refiner, step)
