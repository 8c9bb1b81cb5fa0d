"""The one step of self-training, piece by piece."""

import copy
from dataclasses import fields

import pytest
import torch
from pydantic import ValidationError

from segrefinery.core.randomness import generator
from segrefinery.data.batch import MixedBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.data.translation import TranslationSettings, translate
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.models.teacher import Teacher, TeacherSettings
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
    mixed = stage.mix(source, target, labels, [generator(i) for i in range(2)])
    image, label, weight, pasted = mixed.image, mixed.label, mixed.weight, mixed.pasted
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
    mixed = stage.mix(labeled(), target, labels, [])
    assert torch.equal(mixed.image, target.image)
    assert not mixed.pasted.any()


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
    stage.after_step(batch_of(0))  # DAFormer's t = 1, decay min(1 - 1/2, 0.9): half-way
    student, teacher = stage.model.stem.weight, stage.teacher.network.stem.weight
    assert torch.allclose(student - teacher, torch.full_like(student, 0.5))
    with torch.no_grad():
        student.add_(1.0)
    stage.after_step(batch_of(1))  # 1 - 1/3: the mean of students 0, 1 and 2 higher than the first
    assert torch.allclose(student - teacher, torch.full_like(student, 1.0))
    for number in range(2, 30):
        stage.after_step(batch_of(number))
    before = (student - teacher).mean().item()
    stage.after_step(batch_of(30))
    assert (student - teacher).mean().item() == pytest.approx(0.9 * before, rel=1e-4)


def test_the_ramp_is_daformers():
    """Official: theta' <- alpha theta' + (1 - alpha) theta with alpha = min(1 - 1/(t+1), 0.999) at the start of step
    t > 0, which is after step t - 1."""
    decays = [Teacher(ToySegmenter()).decay_at(t - 1) for t in (1, 2, 998, 999, 5000)]
    assert decays == pytest.approx([1 / 2, 2 / 3, 1 - 1 / 999, 0.999, 0.999], abs=1e-12)


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


def test_a_teacher_without_a_ramp_keeps_its_share_from_the_first_step():
    start = ToySegmenter()
    student = copy.deepcopy(start)
    with torch.no_grad():
        student.classifier.bias += 1.0
    teacher = Teacher(start, TeacherSettings(decay=0.9, ramp=False))
    teacher.update(student, 0)
    torch.testing.assert_close(teacher.network.classifier.bias, start.classifier.bias + 0.1)


def test_a_refiners_weight_counts_in_the_variance_regularized_loss():
    stage = stage_of(target_loss="variance_regularized")
    prediction = stage.model(unlabeled().image)
    label, pasted = torch.zeros(2, 32, 48, dtype=torch.long), torch.zeros(2, 32, 48, dtype=torch.bool)
    mixed = [MixedBatch(unlabeled().image, label, torch.full((2, 32, 48), share), pasted) for share in (1.0, 0.5, 0.0)]
    full, half, none = (stage.target_losses(prediction, batch)["target"].item() for batch in mixed)
    assert half == pytest.approx((full + none) / 2)
    assert none < half < full


def see_inputs(stage):
    """The images that the student sees from now on, in order."""
    seen = []
    stage.model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
    return seen


@pytest.mark.parametrize("kind", ["fda", "color"])
def test_the_source_is_shown_in_the_targets_style_wherever_it_is_shown(kind):
    stage, batch = stage_of(translation={"kind": kind}), batch_of()
    losses = list(stage.step(batch))
    assert len(losses) == 2
    step = stage.micro_steps[-1]
    styles, source, mixed = batch.target.image, step.source.batch, step.target.mixed
    for place, image in enumerate(source.image):
        one = batch.source.image[place, None].expand(2, -1, -1, -1)
        found = translate(one, styles, TranslationSettings(kind=kind))
        assert any(torch.allclose(image, other, atol=1e-5) for other in found)
    assert torch.equal(source.label, batch.source.label)
    pasted = mixed.pasted
    assert pasted.any()
    assert torch.equal(mixed.image.movedim(1, -1)[pasted], source.image.movedim(1, -1)[pasted])
    assert torch.equal(mixed.image.movedim(1, -1)[~pasted], styles.movedim(1, -1)[~pasted])


def test_without_translation_the_source_is_shown_as_it_is():
    stage, batch = stage_of(), batch_of()
    before = batch.source.image.clone()
    seen = see_inputs(stage)
    losses_of(stage, batch)
    assert torch.equal(seen[0], before)
    styled = stage_of(translation={"kind": "fda"})
    seen = see_inputs(styled)
    losses_of(styled, batch_of())
    assert not torch.equal(seen[0], before)
    assert torch.equal(batch.source.image, before)


def test_translation_draws_from_the_images_own_generators():
    found = []
    for _ in range(2):
        stage = stage_of(translation={"kind": "fda"})
        found.append({name: loss.item() for name, loss in losses_of(stage, batch_of(4)).items()})
        torch.manual_seed(len(found))
    assert found[0] == found[1]


def test_a_folder_is_refused_with_the_key_that_takes_it():
    with pytest.raises(ValidationError, match="translated: PATH"):
        SelfTrainingSettings(steps=1, translation={"kind": "folder", "folder": "there"})


class CountedBatchNorm(ToySegmenter):
    """A network that remembers what it looked at, and whose statistics move."""

    def __init__(self):
        super().__init__()
        self.norm, self.looked_at = torch.nn.BatchNorm2d(3), []

    def forward(self, image):
        self.looked_at.append(image)
        return super().forward(self.norm(image))


@pytest.mark.parametrize(("weight", "refine", "passes"), [
    (0.0, {}, 1), (1.0, {}, 2),
    (0.0, {"masked_consistency": {}}, 2),  # its own pass over the masked target
    (0.0, {"pixel_attention": {"kernel": 0}}, 2),  # it asks what the student says of the source
])  # fmt: skip
def test_a_source_that_weighs_nothing_is_not_looked_at(weight, refine, passes):
    torch.manual_seed(0)
    model = CountedBatchNorm().train()
    settings = SelfTrainingSettings(steps=2, strong=None, mixing="none", source_weight=weight, refine=refine)
    stage = settings.build(StageContext(model, model, model, SPACE))
    model.looked_at.clear()
    batch = batch_of()
    losses = losses_of(stage, batch)
    assert len(model.looked_at) == passes == int(model.norm.num_batches_tracked)
    seen = [torch.equal(image, batch.source.image) for image in model.looked_at]
    assert any(seen) == (weight > 0 or "pixel_attention" in refine)
    assert ("source" in losses) == (weight > 0)


@pytest.mark.parametrize("batch_norm", ["network", "train"])
def test_batch_norm_that_the_network_keeps_fixed_is_trained_only_if_so_set(batch_norm):
    model = CountedBatchNorm()
    model.norm.requires_grad_(False)
    stage = SelfTrainingSettings(steps=2, strong=None, batch_norm=batch_norm).build(
        StageContext(model, model, model, SPACE)
    )
    trained = stage.optimizers()["model"].optimizer
    losses_of(stage, batch_of())
    trained.step()
    moved = [bool((model.norm.weight != 1).any()), bool((model.norm.bias != 0).any())]
    assert moved == [batch_norm == "train"] * 2
    assert not any(parameter.requires_grad for parameter in stage.teacher.parameters())
