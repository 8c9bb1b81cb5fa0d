"""The one step of self-training, piece by piece."""

from dataclasses import fields

import pytest
import torch
from pydantic import ValidationError

from segrefinery.data.batch import PseudoLabeledBatch, UnlabeledBatch
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.models.teacher import TeacherSettings
from segrefinery.randomness import generator
from segrefinery.refine import PseudoLabels
from segrefinery.stages.base import StageContext, StepBatch
from segrefinery.stages.self_training import SelfTrainingSettings, from_hard_labels
from toys import ToySegmenter, labeled, unlabeled

SPACE = LabelSpace.of("toy", [f"class {i}" for i in range(5)])


def stage_of(**settings):
    torch.manual_seed(0)
    model = ToySegmenter()
    previous = ToySegmenter()
    options = {"steps": 10, "strong": None} | settings
    return SelfTrainingSettings(**options).build(StageContext(model, previous, model, SPACE))


def batch_of(number=0):
    return StepBatch(number, labeled(), unlabeled(), [generator(number, i) for i in range(2)])


def losses_of(stage, batch):
    total = {}
    for losses in stage.step(batch):
        sum(losses.values()).backward()
        total |= losses
    return total


def test_a_target_batch_has_no_label():
    assert [field.name for field in fields(UnlabeledBatch)] == ["image", "index"]


def test_what_is_pasted_carries_its_true_label_and_weighs_one():
    stage, source, target = stage_of(), labeled(), unlabeled()
    probs = torch.full((2, 5, 8, 12), 0.1)
    probs[:, 3] = 0.6
    labels = PseudoLabels(probs, torch.full((2, 8, 12), 0.25))
    image, label, weight, pasted = stage.mix(source, target, labels, [generator(i) for i in range(2)])
    assert pasted.any()
    assert (~pasted).any()
    assert torch.equal(image[:, 0][pasted], source.image[:, 0][pasted])
    assert torch.equal(image[:, 0][~pasted], target.image[:, 0][~pasted])
    assert torch.equal(label[pasted], source.label[pasted])
    assert (label[~pasted] == 3).all()
    assert (weight[pasted] == 1).all()
    assert (weight[~pasted] == 0.25).all()


def test_without_mixing_the_student_sees_the_target_as_it_is():
    stage, target = stage_of(mixing="none"), unlabeled()
    _, labels = stage.label(target)
    image, _, _, pasted = stage.mix(labeled(), target, labels, [])
    assert torch.equal(image, target.image)
    assert pasted is None


def test_the_loss_is_the_weighted_cross_entropy_of_both_batches():
    stage = stage_of(mixing="none", weights={"main": 1.0, "aux": 0.0})
    batch = batch_of()
    losses = losses_of(stage, batch)
    assert set(losses) == {"source", "target"}
    _, labels = stage.label(batch.target)
    label = labels.resize((32, 48)).labels
    logits = torch.nn.functional.interpolate(stage.model(batch.target.image).logits, (32, 48), mode="bilinear")
    assert losses["target"].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, label).item(), rel=1e-5)


def test_gradients_reach_the_student_and_never_the_teacher():
    stage = stage_of()
    losses_of(stage, batch_of())
    assert all(parameter.grad is not None for parameter in stage.model.parameters())
    assert all(parameter.grad is None for parameter in stage.teacher.parameters())


def test_the_teacher_is_the_student_first_and_then_follows_it():
    stage = stage_of(teacher={"decay": 0.9})
    with torch.no_grad():
        for parameter in stage.model.parameters():
            parameter.add_(1.0)
    stage.after_step(batch_of(0))  # decay min(1 - 1/1, 0.9) = 0: a copy
    student, teacher = stage.model.stem.weight, stage.teacher.network.stem.weight
    assert torch.equal(student, teacher)
    with torch.no_grad():
        student.add_(1.0)
    stage.after_step(batch_of(1))  # decay 1 - 1/2: half-way
    assert torch.allclose(student - teacher, torch.full_like(student, 0.5))
    for number in range(2, 30):
        stage.after_step(batch_of(number))
    before = (student - teacher).mean().item()
    stage.after_step(batch_of(30))
    assert (student - teacher).mean().item() == pytest.approx(0.9 * before, rel=1e-4)


def test_a_decay_of_one_holds_the_teacher_and_others_are_refused():
    stage = stage_of(teacher={"decay": 1})
    before = stage.teacher.network.stem.weight.clone()
    with torch.no_grad():
        stage.model.stem.weight.add_(1.0)
    stage.after_step(batch_of(0))
    assert torch.equal(before, stage.teacher.network.stem.weight)
    for decay in (-0.1, 1.1):
        with pytest.raises(ValidationError, match="decay"):
            TeacherSettings(decay=decay)


def test_the_teachers_mode_is_its_own():
    stage = stage_of()
    stage.train()
    assert stage.model.training
    assert not any(module.training for module in stage.teacher.network.modules())


def test_an_offline_teacher_is_the_last_stages_network_and_stays_it():
    stage = stage_of(labels="offline", mixing="none")
    before = stage.teacher.network.stem.weight.clone()
    assert not torch.equal(before, stage.model.stem.weight)
    target = unlabeled()
    label = torch.randint(0, 5, (2, 32, 48))
    label[:, :4] = IGNORE
    batch = StepBatch(0, labeled(), PseudoLabeledBatch(target.image, label, torch.ones(2, 32, 48), target.index), [])
    losses_of(stage, batch)
    stage.after_step(batch)
    assert torch.equal(before, stage.teacher.network.stem.weight)


def test_labels_read_back_are_the_labels_written():
    label = torch.tensor([[[0, 4], [IGNORE, 2]]])
    weight = torch.tensor([[[1.0, 0.5], [1.0, 0.25]]])
    labels = from_hard_labels(label, weight, 5)
    assert torch.equal(labels.labels, label)
    assert labels.weight.tolist() == [[[1.0, 0.5], [0.0, 0.25]]]
    assert torch.allclose(labels.probs.sum(1), torch.ones(1, 2, 2))


def test_pixels_of_weight_zero_teach_nothing():
    stage = stage_of(
        mixing="none", source_weight=0.0, refine={"confidence_threshold": {"classes": "none", "threshold": 1.0}}
    )
    losses = losses_of(stage, batch_of())
    assert losses["target"].item() == 0.0
    assert all(parameter.grad.abs().max() == 0 for parameter in stage.model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("loss", ["symmetric", "variance_regularized"])
def test_other_target_losses_train(loss):
    losses = losses_of(stage_of(target_loss=loss), batch_of())
    assert torch.isfinite(losses["target"])
    assert losses["target"] > 0
