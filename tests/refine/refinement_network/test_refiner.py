"""The refinement network: what it learns from, what it may touch, and when it is trusted."""

from __future__ import annotations

import logging

import pytest
import torch

from refine.steps import finish, mixed_batch, source_step, target_of, view_of
from segrefinery.core.randomness import generator
from segrefinery.models.teacher import TeacherView
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.refinement_network.refiner import RefinementNetwork, RefinementNetworkSettings
from toys import ToySegmenter, labeled, toy_teacher, unlabeled


def build(**settings) -> RefinementNetwork:
    torch.manual_seed(0)
    return RefinementNetworkSettings(**{"width": 16, "warmup": 0, **settings}).build(ToySegmenter())


def step_of(number: int = 0, target_size: tuple[int, int] = (32, 48), target_batch: int = 2) -> Step:
    torch.manual_seed(1)
    student, teacher, image = ToySegmenter(), toy_teacher(), unlabeled(target_batch, target_size).image
    view = teacher.view(image)
    target = TargetStep(teacher, view, PseudoLabels.from_view(view), mixed_batch(image), student(image))
    random = [generator(number, place) for place in range(2)]
    source = source_step(student, labeled())
    return Step(number, student, source, target, strong=lambda image: image + 1, generators=random)


def parts(step: Step) -> tuple[TeacherView, PseudoLabels]:
    return view_of(step), target_of(step).labels


def test_losses_train_the_network_and_nothing_else():
    refiner, step = build(), step_of()
    losses = refiner.losses(step)
    assert set(losses) == {"refinement", "noise_mask"}
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in refiner.parameters())
    assert all(parameter.grad is None for parameter in step.student.parameters())
    assert all(parameter.grad is None for parameter in target_of(step).teacher.parameters())


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        ({"mask": False}, {"refinement"}),
        ({"refine": False}, {"noise_mask"}),
        ({"refine": False, "mask_target": "refined"}, {"refinement", "noise_mask"}),
        ({"mask_target": "refined", "residual": True, "norm": "group"}, {"refinement", "noise_mask"}),
        ({"perturbation": "none", "augment_source": True}, {"refinement", "noise_mask"}),
        ({"perturbation": "regions", "residual": True}, {"refinement", "noise_mask"}),
        ({"perturbation": "class_dropout"}, {"refinement", "noise_mask"}),
        ({"perturbation": "boundary_jitter"}, {"refinement", "noise_mask"}),
    ],
)
def test_switches(switches, names):
    refiner, step = build(**switches), step_of()
    losses = refiner.losses(step)
    assert set(losses) == names
    torch.stack(list(losses.values())).sum().backward()
    # What trains is what the losses reach, so that no optimizer or process group waits for the rest.
    for parameter in refiner.parameters():
        assert parameter.requires_grad == (parameter.grad is not None)


def test_labels_are_learned_at_their_own_size():
    """Cross-entropy of up-sampled logits, as a student's is: labels shrunk to the grid lose what lies between cells."""
    refiner, step = build(dropout=0.0, perturbation="none", mask=False), step_of()
    loss, source = refiner.losses(step)["refinement"], step.source.batch
    view = target_of(step).teacher.view(source.image)
    logits = refiner.decoder(view.levels, view.logits).logits
    logits = torch.nn.functional.interpolate(logits, source.label.shape[-2:], mode="bilinear")
    summed = torch.nn.functional.cross_entropy(logits, source.label, ignore_index=255, reduction="sum")
    torch.testing.assert_close(loss, summed / source.label.numel())


def test_mask_target_changes_what_the_mask_learns():
    values = [build(mask_target=target).losses(step_of())["noise_mask"] for target in ("input", "refined")]
    assert values[0] != values[1]


def test_the_network_learns_to_repair_and_to_find_the_noise():
    refiner = build(norm="group", dropout=0.0)
    optimizer = torch.optim.Adam(refiner.parameters(), 0.01)
    history = []
    for number in range(20):
        losses = refiner.losses(step_of(number))
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert sum(history[-5:]) < 0.9 * sum(history[:5])


def test_same_generators_same_losses():
    first, second, other = (build(dropout=0.0).losses(step_of(number)) for number in (0, 0, 1))
    assert first == second
    assert first != other


def test_domains_of_different_size_and_batch():
    losses = build().losses(step_of(target_size=(40, 32), target_batch=1))
    assert all(value.isfinite() for value in losses.values())


def test_a_supervised_stage_is_left_alone():
    step = step_of()
    target_of(step).view = None
    refiner = build()
    assert refiner.losses(step) == {}
    finish(refiner, step)
    assert refiner.trained_steps == 0


def test_warmup_counts_in_the_state():
    refiner, step = build(warmup=2), step_of()
    view, labels = parts(step)
    assert refiner(view, labels) is labels
    refiner.remember(step)
    finish(refiner, step)  # a second micro-batch of the same optimizer step
    assert refiner.trained_steps == 1
    step.number += 1
    finish(refiner, step)
    resumed = build(warmup=2)
    resumed.load_state_dict(refiner.state_dict())
    refined = resumed(view, labels)
    assert refined is not labels
    torch.testing.assert_close(refined.probs, refiner.examine(view).logits.softmax(1))


def test_forward_uses_running_statistics_and_restores_the_mode():
    refiner = build(dropout=0.5).train()
    view, labels = parts(step_of())
    before = {name: value.clone() for name, value in refiner.state_dict().items()}
    first, second = refiner(view, labels), refiner(view, labels)
    torch.testing.assert_close(first.probs, second.probs, atol=0, rtol=0)
    assert all(module.training for module in refiner.modules())
    for name, value in refiner.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    assert not first.probs.requires_grad
    torch.testing.assert_close(first.probs.sum(1), torch.ones_like(first.weight))


def test_the_mask_multiplies_weights_and_switches_hold():
    view, labels = parts(step_of())
    labels = labels.weighted(torch.full_like(labels.weight, 0.5))
    for refine, mask in ((True, True), (True, False), (False, True)):
        refiner = build(refine=refine, mask=mask)
        seen = refiner.examine(view)
        out = refiner(view, labels)
        expected = seen.logits.softmax(1) if refine else labels.probs
        torch.testing.assert_close(out.probs, expected)
        torch.testing.assert_close(out.weight, labels.weight * (seen.noise <= 0) if mask else labels.weight)


def test_the_threshold_of_the_mask_and_the_balance_of_its_loss_are_the_settings():
    step = step_of()
    view, labels = parts(step)
    middle = float(build().examine(view).noise.sigmoid().median())
    for threshold in (middle, 0.99):
        refiner = build(noise_threshold=threshold)
        kept = refiner(view, labels).weight
        assert torch.equal(kept, (refiner.examine(view).noise.sigmoid() <= threshold).float())
        assert bool(kept.any())
        assert bool(kept.all()) == (threshold == 0.99)
    label = step.source.batch.label
    seen = target_of(step).teacher.view(step.source.batch.image)
    label.copy_(PseudoLabels.from_view(seen).at(label.shape[-2:])[0])
    label[:, :4] = (label[:, :4] + 1) % 3  # few are wrong, and count for more
    losses = [build(largest_balance=most, perturbation="none").losses(step)["noise_mask"] for most in (10.0, 2.0, 1.0)]
    assert losses[0] > losses[1] > losses[2]


def test_a_mask_that_rejects_everything_warns_once_a_streak(caplog):
    refiner = build()
    view, labels = parts(step_of())
    with torch.no_grad():
        dict(refiner.decoder.noise.named_parameters())["bias"].fill_(100.0)
    with caplog.at_level(logging.WARNING):
        out = refiner(view, labels)
        refiner(view, labels)
    assert out.weight.eq(0).all()
    assert out.labels.eq(255).all()
    assert [record.getMessage().count("rejects every pixel") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": (0.3, 0.1)}, "strength"),
        ({"strength": (0.1, 0.6)}, "strength"),
        ({"refine": False, "mask": False}, "nothing to do"),
        ({"perturbation": "salt"}, "perturbation"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        RefinementNetworkSettings(**settings)
