"""Distillation: what the teacher says, what the student learns, and what stays frozen."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from segrefinery.core.randomness import generator
from segrefinery.data.batch import MixedBatch
from segrefinery.labels import LabelSpace
from segrefinery.losses import kl_divergence, weighted_cross_entropy
from segrefinery.models.segmenter import Prediction
from segrefinery.stages.base import StageContext, StepBatch
from segrefinery.stages.distillation import Distillation, DistillationSettings, confident_labels
from toys import ToySegmenter, labeled, unlabeled

SPACE = LabelSpace.of("toys", ["road", "sky", "car", "train", "bike"])


class Echo(torch.nn.Module):
    """Its logits are the image, brighter on the left."""

    def forward(self, image):
        slope = torch.linspace(1, 0, image.shape[-1])
        return Prediction(image + slope, image)


def built(previous=None, **settings) -> Distillation:
    torch.manual_seed(0)
    student, teacher = ToySegmenter(), previous or ToySegmenter()
    settings = DistillationSettings(**{"steps": 4, "confidence": 0.3, **settings})
    return settings.build(StageContext(student, teacher, ToySegmenter(), SPACE))


def batch(number=0):
    return StepBatch(number, labeled(), unlabeled(), [generator(number, slot) for slot in range(2)])


def test_labels_are_hard_where_the_teacher_is_sure():
    probs = torch.tensor([[0.96, 0.5], [0.03, 0.3], [0.01, 0.2]])
    image = probs.log().T.reshape(1, 2, 3).movedim(-1, 1)[:, :, None]
    assert confident_labels(Echo(), image, 0.95).tolist() == [[[0, 255]]]
    assert confident_labels(Echo(), image, 0.45).tolist() == [[[0, 0]]]
    assert (confident_labels(Echo(), image, 1.0) == 255).all()


def test_labels_average_the_image_and_its_mirror_image():
    torch.manual_seed(0)
    network, image = ToySegmenter(), torch.randn(2, 3, 32, 48)
    assert torch.equal(confident_labels(network, image.flip(-1), 0.3), confident_labels(network, image, 0.3).flip(-1))
    assert (confident_labels(network, image, 0.3) != 255).any()


def test_losses_by_hand_without_a_strong_view():
    stage = built(strong=None, weights={"aux": 0.0}, kl_weight=2.0, source_weight=0.5)
    source, target = stage.step(batch())
    one = batch()
    on_source = stage.model(one.source.image).logits
    torch.testing.assert_close(source["source"], 0.5 * weighted_cross_entropy(on_source, one.source.label))
    label = confident_labels(stage.teacher, one.target.image, 0.3)
    student, teacher = stage.model(one.target.image).logits, stage.teacher(one.target.image).logits
    torch.testing.assert_close(target["target"], weighted_cross_entropy(student, label))
    torch.testing.assert_close(target["distillation"], 2.0 * kl_divergence(teacher, student))
    assert target.keys() == {"target", "distillation"}
    assert stage.numbers()["label_weight"] == pytest.approx((label != 255).float().mean().item())
    assert stage.numbers() == {}


def test_the_divisor_takes_the_kl_over_classes_too():
    found = [list(built(strong=None, divisor=divisor).step(batch()))[1] for divisor in ("pixels", "elements")]
    torch.testing.assert_close(found[1]["distillation"], found[0]["distillation"] / 5)


def test_student_and_teacher_see_the_same_strong_view():
    torch.manual_seed(0)
    same = ToySegmenter()
    stage = built(previous=same)
    stage.model.load_state_dict(same.state_dict())
    *_, target = stage.step(batch())
    assert target["distillation"].item() == pytest.approx(0, abs=1e-6)


def test_the_student_learns_and_the_teacher_stays():
    stage = built(optimizer={"lr": 1e-3, "power": 0}, strong=None, source_weight=0.0, confidence=1.0)
    before = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    trained = stage.optimizers()["model"].optimizer
    course = []
    for _ in range(20):
        trained.zero_grad()
        for losses in stage.step(batch()):
            torch.stack(list(losses.values())).sum().backward()
        course.append(losses["distillation"].item())
        trained.step()
    assert course[-1] < 0.5 * course[0]
    assert all(torch.equal(value, before[name]) for name, value in stage.teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in stage.teacher.parameters())


def test_a_student_that_starts_from_the_teacher_is_its_own_network():
    network = ToySegmenter()
    settings = DistillationSettings(steps=1, start="previous")
    stage = settings.build(StageContext(network, network, network, SPACE))
    assert stage.teacher.network is not stage.model
    assert stage.predictor() is stage.model is network


def test_state_dict_round_trip_gives_the_same_step():
    one, other = built(), built(previous=ToySegmenter())
    other.load_state_dict(one.state_dict())
    for a, b in zip(one.step(batch(3)), other.step(batch(3)), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_settings():
    settings = DistillationSettings(steps=10, rounds=2)
    assert settings.repeats == 2
    assert settings.start == "fresh"
    assert settings.confidence == 0.95
    with pytest.raises(ValueError, match="confidence"):
        DistillationSettings(steps=10, confidence=1.5)


def test_a_source_that_weighs_nothing_is_not_looked_at():
    stage = built(strong=None, source_weight=0.0)
    looked_at = []
    stage.model.register_forward_pre_hook(lambda _, given: looked_at.append(given[0]))
    one = batch()
    (losses,) = stage.step(one)
    assert len(looked_at) == 1
    assert torch.equal(looked_at[0], one.target.image)
    assert losses.keys() == {"target", "target_aux", "distillation"} & losses.keys()


def test_refiners_that_only_add_losses_join_a_distillation():
    stage = built(strong=None, refine={"pixel_attention": {"kernel": 0}, "masked_consistency": {"block": 8}})
    (losses,) = stage.step(batch())
    assert {"source", "target", "attention_source", "attention_target", "masked"} <= losses.keys()
    assert losses["attention_target"] > 0
    assert losses["masked"].requires_grad
    plain = list(built(strong=None).step(batch()))
    torch.testing.assert_close(losses["distillation"], plain[1]["distillation"])
    stage.after_step(batch())
    assert not stage.micro_steps


def test_refiners_that_change_labels_are_refused_in_a_distillation():
    with pytest.raises(ValidationError, match=r"prototypes: distillation .* only refiners that add losses: pixel_"):
        DistillationSettings(steps=1, refine={"prototypes": {}, "pixel_contrast": {}})


class CornerAligned(ToySegmenter):
    """Its outermost cells lie in the corner pixels, as DeepLab-v2's do."""

    def forward(self, image):
        seen = super().forward(image)
        learners = tuple(replace(learner, aligned=True) for learner in seen.learners)
        return Prediction.of(learners, seen.levels)


def test_refiners_see_labels_where_the_networks_cells_lie():
    context = StageContext(CornerAligned(), CornerAligned(), CornerAligned(), LabelSpace.of("toy", [*"abcde"]))
    stage = Distillation(DistillationSettings(steps=1, strong=None), context)
    batch = StepBatch(0, labeled(), unlabeled(), [generator(0, i) for i in range(2)])
    label = torch.arange(5).repeat(10)[:48].expand(2, 32, 48).contiguous()
    step = stage.refined(batch, None, MixedBatch.unmixed(batch.target.image, label), None)
    columns = torch.linspace(0, 47, 12).round().long()
    assert step.target.labels.aligned
    assert torch.equal(step.target.labels.labels[0, 0], label[0, 0, columns])
