"""The two phases of SAM: what each trains, and what the student feels."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F

from refine.steps import mixed_batch, source_step, target_of, view_of
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.pixel_attention.refiner import PixelAttention, PixelAttentionSettings
from toys import ToySegmenter, labeled, toy_teacher, unlabeled


def build(**settings) -> tuple[ToySegmenter, PixelAttention]:
    torch.manual_seed(0)
    student = ToySegmenter()
    return student, PixelAttentionSettings(**settings).build(student)


def supervised(student: ToySegmenter) -> Step:
    return Step(0, student, source_step(student, labeled()))


def adapting(student: ToySegmenter) -> Step:
    step, image, teacher = supervised(student), unlabeled().image, toy_teacher()
    view = teacher.view(image)
    step.target = TargetStep(teacher, view, PseudoLabels.from_view(view), mixed_batch(image), student(image))
    return step


def test_training_is_cross_entropy_of_the_attended_logits():
    student, refiner = build(train=True)
    step = supervised(student)
    losses = refiner.losses(step)
    logits = step.source.prediction.logits
    summed = logits + refiner.attention["logits"](logits)
    up = F.interpolate(summed, step.source.batch.label.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        losses["pixel_attention"], F.cross_entropy(up, step.source.batch.label, ignore_index=255)
    )
    losses["pixel_attention"].backward()
    assert all(parameter.grad is not None for parameter in refiner.parameters())
    assert student.classifier.weight.grad is not None


def test_training_on_the_attended_form_alone_and_on_both():
    losses = {}
    for judged in ("skip", "plain", "both"):
        student, refiner = build(train=True, train_on=judged)
        losses[judged] = refiner.losses(supervised(student))["pixel_attention"]
    assert losses["plain"] != losses["skip"]
    torch.testing.assert_close(losses["both"], losses["plain"] + losses["skip"])


def test_training_survives_a_source_without_labels():
    student, refiner = build(train=True)
    step = supervised(student)
    step.source.batch.label.fill_(255)
    assert refiner.losses(step)["pixel_attention"] == 0


def test_skip_pulls_by_the_sign_of_the_attended_logits_and_leaves_the_module_alone():
    student, refiner = build(domains="target", weight=0.1)
    step = adapting(student)
    losses = refiner.losses(step)
    assert set(losses) == {"attention_target"}
    logits = target_of(step).prediction.logits
    attended = refiner.attention["logits"](logits).detach()
    torch.testing.assert_close(losses["attention_target"], 0.1 * attended.abs().sum(dim=1).mean())
    (gradient,) = torch.autograd.grad(losses["attention_target"], logits)
    torch.testing.assert_close(gradient, -0.1 * attended.sign() / attended[:, 0].numel())
    assert not any(parameter.requires_grad for parameter in refiner.parameters())


def test_labels_written_before_the_generation_need_no_view():
    student, refiner = build()
    step = adapting(student)
    target_of(step).view = None
    assert set(refiner.losses(step)) == {"attention_source", "attention_target"}


def test_plain_pulls_towards_the_average():
    student, refiner = build(target="plain", weight=1.0, divisor="elements")
    step = adapting(student)
    losses = refiner.losses(step)
    assert set(losses) == {"attention_source", "attention_target"}
    logits = step.source.prediction.logits
    torch.testing.assert_close(losses["attention_source"], F.l1_loss(logits, refiner.attention["logits"](logits)))


def test_forms_by_hand():
    for form in ("kl", "cosine"):
        student, refiner = build(form=form, target="plain", domains="target", weight=1.0)
        step = adapting(student)
        logits = target_of(step).prediction.logits
        wanted = refiner.attention["logits"](logits)
        p, q = wanted.softmax(1), logits.softmax(1)
        expected = {
            "kl": (p * (p / q).log()).sum(1).mean(),
            "cosine": 1 - ((logits * wanted).sum(1) / (logits.norm(dim=1) * wanted.norm(dim=1))).mean(),
        }
        torch.testing.assert_close(refiner.losses(step)["attention_target"], expected[form])


@pytest.mark.parametrize("train", [True, False])
def test_features_and_both(train):
    totals = {}
    for layers in ("logits", "features", "both"):
        student, refiner = build(train=train, layers=layers)
        step = supervised(student) if train else adapting(student)
        losses = refiner.losses(step)
        torch.stack(list(losses.values())).sum().backward()
        assert student.stem.weight.grad is not None
        totals[layers] = losses
    assert all(value.isfinite() for losses in totals.values() for value in losses.values())


def test_the_module_is_handed_on_by_its_state(caplog):
    student, trained = build(train=True)
    optimizer = torch.optim.SGD([*trained.parameters(), *student.parameters()], lr=0.1)
    step = supervised(student)
    trained.losses(step)["pixel_attention"].backward()
    optimizer.step()

    _, frozen = build()
    with caplog.at_level(logging.WARNING):
        frozen.fit(toy_teacher(), [], [])
    assert "never trained" in caplog.text
    caplog.clear()
    frozen.load_state_dict(trained.state_dict())
    frozen.fit(toy_teacher(), [], [])
    assert not caplog.text
    torch.testing.assert_close(
        frozen.attention["logits"](step.source.prediction.logits),
        trained.attention["logits"](step.source.prediction.logits),
    )
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_labels_pass_through_and_a_supervised_stage_is_left_alone():
    student, refiner = build()
    step = adapting(student)
    labels = target_of(step).labels
    assert refiner(view_of(step), labels) is labels
    assert refiner.losses(supervised(student)) == {}
