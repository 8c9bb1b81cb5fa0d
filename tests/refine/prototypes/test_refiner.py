"""ProDA as a refiner."""

import copy

import pytest
import torch
import torch.nn.functional as F

from refine.steps import finish, mixed_batch, source_step, target_of, view_of
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.labels import LabelSpace
from segrefinery.losses import kl_divergence, mrkld
from segrefinery.refine.base import PseudoLabels, Step, TargetStep
from segrefinery.refine.prototypes.formulas import prototype_weights
from segrefinery.refine.prototypes.refiner import Prototypes, PrototypesSettings
from toys import ToySegmenter, labeled, toy_teacher, unlabeled

pytestmark = pytest.mark.filterwarnings("ignore:the teacher labels hardly any")
SPACE = LabelSpace.of("toys", ["road", "sky", "car", "train", "bike"])


def built(fitted=True, **settings) -> Prototypes:
    refiner = PrototypesSettings(**settings).build(ToySegmenter(), SPACE)
    if fitted:
        refiner.fit(toy_teacher(), [labeled()], [unlabeled(), unlabeled(seed=9)])
    return refiner


def step_of(refiner, number=0, pasted=None):
    torch.manual_seed(number)
    source, target, student = labeled(), unlabeled(seed=number + 1), ToySegmenter()
    teacher = toy_teacher(seed=5)
    view = teacher.view(target.image)
    labels = refiner(view, PseudoLabels.from_view(view))
    random = [generator(number, slot) for slot in range(2)]
    mixed = mixed_batch(target.image, pasted=pasted)
    halves = source_step(student, source), TargetStep(teacher, view, labels, mixed, student(target.image))
    return Step(number, student, *halves, strong=lambda image: image * 1.1, generators=random)


def test_labels_are_the_warmup_networks_denoised_by_distance():
    refiner = built(temperature=0.5)
    view = toy_teacher(seed=4).view(unlabeled().image)
    found = refiner(view, PseudoLabels.from_view(view))
    product = prototype_weights(view.features, refiner.prototypes, 0.5) * toy_teacher().view(view.image).probs
    torch.testing.assert_close(found.probs, product / product.sum(1, keepdim=True))
    assert (found.labels == product.argmax(1)).all()


def test_a_flat_temperature_leaves_the_soft_labels():
    refiner, view = built(temperature=1e6), toy_teacher(seed=4).view(unlabeled().image)
    found = refiner(view, PseudoLabels.from_view(view)).probs
    torch.testing.assert_close(found, toy_teacher().view(view.image).probs, atol=1e-4, rtol=1e-4)


def test_a_chain_can_hand_in_the_soft_labels_and_their_weight():
    refiner, view = built(soft_labels="chain"), toy_teacher().view(unlabeled().image)
    certain = F.one_hot(torch.full((2, 8, 12), 3), 5).movedim(-1, 1).float()
    found = refiner(view, PseudoLabels(certain, torch.full((2, 8, 12), 0.5)))
    assert (found.labels == 3).all()
    assert (found.weight == 0.5).all()
    assert list(refiner.state_dict()) == ["prototypes"]


def test_structure_loss_is_a_kl_of_prototype_softmaxes_and_reaches_the_student_alone():
    refiner = built(strong_view=None)
    step = step_of(refiner)
    loss = refiner.losses(step)["structure"]
    strong = step.student(view_of(step).image * 1.1).features
    weak, moved = (prototype_weights(f, refiner.prototypes).log() for f in (view_of(step).features, strong))
    torch.testing.assert_close(loss, 10 * kl_divergence(weak, moved))
    loss.backward()
    assert any(parameter.grad is not None for parameter in step.student.parameters())
    assert not target_of(step).teacher.network.stem.weight.requires_grad
    assert list(refiner.parameters()) == list(refiner.warmup.parameters())


def test_equal_views_cost_nothing():
    refiner = built(strong_view=None)
    step = step_of(refiner)
    step.student = toy_teacher(seed=5).network
    step.strong = lambda image: image
    assert refiner.losses(step)["structure"].item() == pytest.approx(0, abs=1e-5)


def test_the_regulariser_looks_at_target_pixels_only():
    refiner = built(structure_weight=0.0)
    pasted = torch.zeros(2, 32, 48, dtype=torch.bool)
    pasted[:, :, :24] = True
    step = step_of(refiner, pasted=pasted)
    expected = 0.1 * mrkld(target_of(step).prediction.logits[..., 6:])
    torch.testing.assert_close(refiner.losses(step)["mrkld"], expected)


def test_official_losses_are_means_over_classes_too():
    paper, official = built(strong_view=None), built(strong_view=None, divisor="elements")
    ours, theirs = paper.losses(step_of(paper)), official.losses(step_of(official))
    assert set(ours) == {"structure", "mrkld"}
    for name, loss in ours.items():
        torch.testing.assert_close(theirs[name], loss / 5)


def test_prototypes_move_towards_the_batchs_class_means():
    refiner = built(momentum=0.75)
    step = step_of(refiner)
    before = refiner.prototypes.clone()
    finish(refiner, step)
    features, labels = view_of(step).features.movedim(1, -1).flatten(0, 2), target_of(step).labels.labels.flatten()
    for each in range(5):
        chosen = labels == each
        expected = before[each].lerp(features[chosen].mean(0), 0.25) if chosen.sum() >= 10 else before[each]
        torch.testing.assert_close(refiner.prototypes[each], expected)


def test_official_preset():
    settings = PrototypesSettings(preset="official", momentum=0.99)
    assert (settings.update, settings.update_labels, settings.momentum) == ("image", "teacher", 0.99)
    refiner = built(preset="official", momentum=0.5)
    before = refiner.prototypes.clone()
    finish(refiner, step_of(refiner))
    assert not torch.equal(refiner.prototypes, before)


def test_a_run_that_is_cut_continues_bit_for_bit():
    whole, resumed = built(momentum=0.9), built(momentum=0.9, fitted=False)
    finish(whole, step_of(whole))
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for refiner in (whole, resumed):
        finish(refiner, step_of(refiner, 1))
    assert torch.equal(whole.prototypes, resumed.prototypes)
    one, other = (refiner.losses(step_of(refiner, 2)) for refiner in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_diverged_features_are_named():
    refiner = built()
    view = toy_teacher().view(unlabeled().image * float("nan"))
    with pytest.raises(SegRefineryError, match="NaN"):
        refiner(view, PseudoLabels.from_view(view))


def test_a_supervised_stage_asks_for_nothing():
    refiner, source, student = built(), labeled(), ToySegmenter()
    step = Step(0, student, source_step(student, source))
    assert refiner.losses(step) == {}
    finish(refiner, step)
