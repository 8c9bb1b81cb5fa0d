"""IR2F as a refiner: what it labels, what it trains on, and the network it ships."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from refine.steps import finish, mixed_batch, source_step, target_of, view_of
from segrefinery.core.randomness import generator
from segrefinery.labels import LabelSpace
from segrefinery.models.hrda import HRDA, HRDASettings
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.teacher import Teacher, TeacherSettings
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.implicit_rectification.formulas import mixture_nll, nearest_pixel, pixel_centres
from segrefinery.refine.implicit_rectification.refiner import (
    ImplicitRectificationSettings,
    ImplicitRectifier,
    RectifiedSegmenter,
)
from toys import ToySegmenter, labeled, toy_teacher, unlabeled

SPACE = LabelSpace.of("toy", ("a", "b", "c", "d", "e"))


def toy_hrda() -> HRDA:
    return HRDA(ToySegmenter(), HRDASettings(detail=16, divisor=8, attention_width=8))


def rectifier(network: Segmenter, trained: bool = True, **settings) -> ImplicitRectifier:
    torch.manual_seed(0)
    refiner = ImplicitRectificationSettings(hidden=8, queries=64, **settings).build(network, SPACE)
    if trained and refiner.function.learned:
        torch.nn.init.normal_(refiner.function.psi[-1].weight)
        refiner.fit(toy_teacher(), [], [])
    return refiner


def make_step(student: Segmenter, number: int = 0, mixed: bool = True) -> Step:
    random = [generator(0, number, i) for i in range(2)]
    step = Step(number, student, source_step(student, labeled()), generators=random)
    if mixed:
        teacher = Teacher(student)
        view = teacher.view(unlabeled().image)
        other = labeled(seed=5)
        batch = mixed_batch(other.image, other.label, torch.rand(other.label.shape, generator=generator(7)))
        step.target = TargetStep(teacher, view, PseudoLabels.from_view(view), batch, student(batch.image))
    return step


def drawn_points(number: int = 0, calls: int = 1) -> torch.Tensor:
    generators = [generator(0, number, i) for i in range(2)]
    for _ in range(calls):
        points = torch.stack([torch.rand(64, 2, generator=one) for one in generators]) * 2 - 1
    return points


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_the_plain_average_at_first_and_the_mixture_later():
    view = toy_teacher().view(unlabeled().image)
    labels = PseudoLabels.from_view(view)
    primary, auxiliary = (F.interpolate(one.logits, (8, 12), mode="bilinear").softmax(1) for one in view.learners)
    first = rectifier(ToySegmenter(), trained=False)(view, labels)
    torch.testing.assert_close(first.probs, (primary + auxiliary) / 2)
    assert torch.equal(first.weight, labels.weight)

    refiner = rectifier(ToySegmenter())
    w = refiner.average.decode_weights(view.learners, (8, 12))
    torch.testing.assert_close(refiner(view, labels).probs, w[:, :1] * primary + w[:, 1:] * auxiliary)


def test_in_a_chain_it_keeps_what_others_found():
    view = toy_teacher().view(unlabeled().image)
    refiner = rectifier(ToySegmenter())
    mixture = refiner(view, PseudoLabels.from_view(view)).probs
    factor = torch.rand(2, 5, 8, 12) + 0.1
    others = PseudoLabels(F.normalize(view.probs * factor, p=1, dim=1), torch.full((2, 8, 12), 0.5))
    refined = refiner(view, others)
    torch.testing.assert_close(refined.probs, F.normalize(mixture * factor, p=1, dim=1))
    assert torch.equal(refined.weight, others.weight)


def test_pixel_weights():
    view = toy_teacher().view(unlabeled().image)
    labels = PseudoLabels.from_view(view).weighted(torch.full((2, 8, 12), 0.5))
    refined = rectifier(ToySegmenter(), pixel_weight="mixture")(view, labels)
    torch.testing.assert_close(refined.weight, 0.5 * refined.probs.amax(dim=1))
    refiner = rectifier(ToySegmenter(), trained=False, pixel_weight="noise", noise_component=True)
    torch.testing.assert_close(refiner(view, labels).weight, torch.full((2, 8, 12), 0.5 * 2 / 3))


# -- losses -----------------------------------------------------------------------------------------------------------


def test_losses_are_the_mixtures_at_the_drawn_points():
    student = ToySegmenter()
    step, refiner = make_step(student), rectifier(student, source_weight=2.0)
    losses = refiner.losses(step)
    assert set(losses) == {"rectified_source", "rectified_target"}

    points = drawn_points()
    learners = step.source.prediction.learners
    log_weights = refiner.function(learners, points)
    log_probs = refiner.function.learner_log_probs(learners, points)
    expected = 2 * mixture_nll(log_weights, log_probs, nearest_pixel(step.source.batch.label, points))
    torch.testing.assert_close(losses["rectified_source"], expected)

    points = drawn_points(calls=2)
    learners = target_of(step).prediction.learners
    labels, weight = (
        nearest_pixel(target_of(step).mixed.label, points),
        nearest_pixel(target_of(step).mixed.weight, points),
    )
    expected = refiner.function.nll(learners, points, labels, weight=weight)
    torch.testing.assert_close(losses["rectified_target"], expected)

    sum(losses.values()).backward()
    for parameter in (student.stem.weight, student.auxiliary.weight, refiner.function.psi[-1].weight):
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in refiner.average.parameters())


def test_pixels_that_are_not_trusted_count_in_the_mean():
    """L_T is the mean of q L over all points with a label: at q = 0 it is what q -> 0 leads to, not the mean over the
    pasted pixels alone."""
    student = ToySegmenter()
    refiner, losses = rectifier(student), []
    for trust in (0.0, 1e-6):
        step = make_step(student)
        label, weight = torch.full((2, 32, 48), 1), torch.ones(2, 32, 48)
        weight[..., 24:] = trust  # the left half is pasted
        step.target.mixed = mixed_batch(step.target.mixed.image, label.masked_fill(weight <= 0, 255), weight)
        losses.append(refiner.losses(step)["rectified_target"])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    points = drawn_points(calls=2)
    log_p = refiner.function.mixture_log_probs(step.target.prediction.learners, points)[:, 1]
    torch.testing.assert_close(losses[0], (-log_p * (points[..., 1] < 0)).mean())


def test_supervised_steps_train_on_the_source_alone():
    student = ToySegmenter()
    assert set(rectifier(student).losses(make_step(student, mixed=False))) == {"rectified_source"}


def test_betas_add_each_learners_own_cross_entropy():
    student = ToySegmenter()
    plain = rectifier(student).losses(make_step(student, mixed=False))["rectified_source"]
    step = make_step(student, mixed=False)
    guarded = rectifier(student, betas=(0.0, 0.5)).losses(step)["rectified_source"]
    auxiliary = F.interpolate(step.source.prediction.aux_logits, (32, 48), mode="bilinear")
    own = F.cross_entropy(auxiliary, step.source.batch.label, ignore_index=255, reduction="none").mean()
    torch.testing.assert_close(guarded, plain + 0.5 * own)


def test_heuristic_of_two_classifiers_is_mrnets():
    student = ToySegmenter()
    step, refiner = make_step(student), rectifier(student, weighting="heuristic")
    assert not list(refiner.parameters())
    losses = refiner.losses(step)
    points = drawn_points(calls=2)
    learners = target_of(step).prediction.learners
    p, q = refiner.function.learner_log_probs(learners, points).unbind(dim=1)
    variance = F.kl_div(q, p, log_target=True, reduction="none").sum(dim=1)
    labels, weight = (
        nearest_pixel(target_of(step).mixed.label, points),
        nearest_pixel(target_of(step).mixed.weight, points),
    )
    nll = refiner.function.nll(learners, points, labels, weight=weight * (-variance).exp())
    torch.testing.assert_close(losses["rectified_target"], nll + (variance * (labels != 255)).mean())


def test_all_ignored_labels_teach_nothing():
    student = ToySegmenter()
    step = make_step(student)
    step.source.batch.label.fill_(255)
    target_of(step).mixed.label.fill_(255)
    losses = rectifier(student, betas=(1.0, 0.5)).losses(step)
    sum(losses.values()).backward()
    assert all(loss == 0 for loss in losses.values())
    assert not student.stem.weight.grad.any()


@pytest.mark.parametrize("weighting", ["implicit", "discrete", "equal", "heuristic"])
def test_hrda_is_a_host(weighting):
    torch.manual_seed(0)
    student = toy_hrda()
    shared = {"shared": True} if weighting in ("implicit", "discrete") else {}
    refiner = rectifier(student, weighting=weighting, **shared)
    losses = refiner.losses(make_step(student))
    sum(losses.values()).backward()
    assert student.segmenter.classifier.weight.grad.isfinite().all()
    reaches_attention = student.attention.classifier.weight.grad is not None
    assert reaches_attention == (weighting == "heuristic")
    labels = refiner(view_of(make_step(student)), target_of(make_step(student)).labels)
    assert labels.probs.shape == (2, 5, 8, 12)
    torch.testing.assert_close(labels.probs.sum(dim=1), torch.ones(2, 8, 12))


def test_runs_under_autocast():
    student = ToySegmenter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = rectifier(student).losses(make_step(student))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


# -- state ------------------------------------------------------------------------------------------------------------


def test_average_follows_as_the_teacher_does():
    student = ToySegmenter()
    refiner = rectifier(student)
    with torch.no_grad():
        refiner.function.psi[-1].weight.add_(1.0)
    old = refiner.average.psi[-1].weight.clone()
    finish(refiner, make_step(student, number=0))
    torch.testing.assert_close(refiner.average.psi[-1].weight, old + 1 / 2)
    finish(refiner, make_step(student, number=1))
    torch.testing.assert_close(refiner.average.psi[-1].weight, old + 2 / 3)
    trained = [name for name, parameter in refiner.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("function.") for name in trained)


@pytest.mark.parametrize(("settings", "kept"), [({"ramp": False, "decay": 0.9}, 0.9), ({"decay": 1.0}, 1.0)])
def test_average_follows_whatever_the_teacher_is_set_to(settings, kept):
    student = ToySegmenter()
    refiner, step = rectifier(student), make_step(student)
    target_of(step).teacher = Teacher(student, TeacherSettings(**settings))
    with torch.no_grad():
        refiner.function.psi[-1].weight.add_(1.0)
    old = refiner.average.psi[-1].weight.clone()
    finish(refiner, step)
    torch.testing.assert_close(refiner.average.psi[-1].weight, old + 1.0 - kept)


def test_a_restored_state_goes_on_exactly():
    torch.manual_seed(0)
    student = ToySegmenter()
    refiner = rectifier(student)

    def go_on(refiner: ImplicitRectifier, student: Segmenter) -> torch.Tensor:
        optimizer = torch.optim.AdamW([*student.parameters(), *refiner.function.parameters()], lr=1e-2)
        for number in range(3, 6):
            step = make_step(student, number)
            optimizer.zero_grad()
            sum(refiner.losses(step).values()).backward()
            optimizer.step()
            finish(refiner, step)
        return refiner(view_of(step), target_of(step).labels).probs

    restored, other = rectifier(student, trained=False), copy.deepcopy(student)
    restored.load_state_dict(refiner.state_dict())
    assert torch.equal(go_on(refiner, student), go_on(restored, other))


# -- the network it ships ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [ToySegmenter, toy_hrda])
def test_shipped_network_predicts_at_any_resolution(network):
    torch.manual_seed(0)
    student = network()
    shipped = rectifier(student).predictor(student).eval()
    assert isinstance(shipped, RectifiedSegmenter)
    image = unlabeled().image
    with torch.no_grad():
        seen = shipped(image)
    assert seen.logits.shape == (2, 5, 8, 12)
    assert seen.features.shape[-2:] == (8, 12)
    torch.testing.assert_close(shipped.predict(image, (8, 12)), seen.logits)
    for size in ((16, 24), (32, 48), (64, 96), (128, 192), (31, 50)):
        probs = shipped.predict(image, size).softmax(dim=1)
        assert probs.shape == (2, 5, *size)
        torch.testing.assert_close(probs, shipped.predict(image, size).exp())
    thirds = shipped.predict(image, (24, 36))[..., 1::3, 1::3]
    torch.testing.assert_close(thirds, seen.logits, atol=1e-5, rtol=1e-4)
    points = pixel_centres((31, 50)).expand(2, -1, -1)
    with torch.no_grad():
        at_points = shipped.function.mixture_log_probs(seen.learners, points).exp()
    torch.testing.assert_close(
        shipped.predict(image, (31, 50), chunk=100).exp().flatten(2), at_points, atol=1e-6, rtol=1e-5
    )


def test_finest_grid_counts_the_box():
    student = toy_hrda().train()
    shipped = rectifier(student).predictor(student)
    assert shipped(unlabeled().image).logits.shape == (2, 5, 8, 12)


def test_settings_that_contradict_each_other():
    with pytest.raises(ValidationError, match="learned weights"):
        ImplicitRectificationSettings(weighting="equal", noise_component=True)
    with pytest.raises(ValidationError, match="noise_component: true"):
        ImplicitRectificationSettings(pixel_weight="noise")
