"""The verdict: better, worse, or nothing to say; and never better for a collapse."""

import pytest
import torch

from segrefinery.evaluation.trust import Observation, ensemble_agreement, pooled, trust, verdict
from segrefinery.evaluation.trust.scores import balanced_agreement, joint_counts
from segrefinery.evaluation.trust.verdict import (
    anchors,
    bootstrap_weights,
    collapse_signs,
    consistency,
    single_scores,
    steadiness,
)

IMAGES, PIXELS, CLASSES = 12, 400, 6


def truth():
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, CLASSES, (IMAGES, PIXELS), generator=rng)


def flipped(labels, share, seed):
    """Labels of which a share was drawn anew."""
    rng = torch.Generator().manual_seed(seed)
    other = torch.randint(0, CLASSES, labels.shape, generator=rng)
    return torch.where(torch.rand(labels.shape, generator=rng) < share, other, labels)


def observed(classes, unstable, confidence=0.95, seed=1):
    """A model that says ``classes`` and changes its mind about a share of the pixels under a perturbation."""
    probs = torch.full((*classes.shape, CLASSES), (1 - confidence) / (CLASSES - 1))
    probs.scatter_(-1, classes[..., None], confidence)
    changed = flipped(classes, unstable, seed)
    counts = torch.stack([joint_counts(own, new, CLASSES) for own, new in zip(classes, changed, strict=True)])
    views = dict.fromkeys(("photometric", "flip", "scale", "mix"), counts)
    names = [str(index) for index in range(len(classes))]
    return Observation(names, probs.half(), views, classes == changed, torch.zeros(len(classes)))


SOURCE = observed(flipped(truth(), 0.05, 2), unstable=0.4)


def test_more_stable_and_true_to_its_anchors_is_better():
    found = verdict(observed(flipped(truth(), 0.02, 3), unstable=0.2), SOURCE)
    assert found.word == "better"
    assert found.interval is not None
    assert found.interval[0] > 0
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_less_stable_is_worse():
    assert verdict(observed(flipped(truth(), 0.05, 3), unstable=0.6), SOURCE).word == "worse"


def test_the_same_is_no_evidence():
    found = verdict(SOURCE, SOURCE)
    assert (found.word, found.difference) == ("no evidence", 0)


def test_stable_but_drifted_from_all_it_was_sure_of_is_not_better():
    shifted = observed((SOURCE.classes + 1) % CLASSES, unstable=0.0)
    found = verdict(shifted, SOURCE)
    assert found.word == "worse"
    assert any("sure of" in reason for reason in found.reasons)


def test_anchors_lost_for_nothing_are_worse_and_those_that_steadiness_pays_for_are_not():
    for_nothing = observed(flipped(SOURCE.classes, 0.25, 5), unstable=0.4)
    paid_for = observed(flipped(SOURCE.classes, 0.25, 5), unstable=0.28)
    assert 0.6 < float(anchors(for_nothing, SOURCE)) < 0.9
    assert verdict(for_nothing, SOURCE).word == "worse"
    assert verdict(paid_for, SOURCE).word != "worse"


def test_trust_is_steadiness_under_scale_times_the_root_of_the_anchors():
    model = observed(flipped(SOURCE.classes, 0.2, 5), unstable=0.3)
    every = torch.ones(CLASSES, dtype=torch.bool)
    wanted = float(steadiness(model, every)) * float(anchors(model, SOURCE)) ** 0.5
    assert float(trust(model, SOURCE, every)) == pytest.approx(wanted)
    counts = model.views["scale"].sum(dim=0)
    assert float(steadiness(model, every)) == pytest.approx(float(balanced_agreement(counts, every)))


def seen_otherwise(model, unstable, *views):
    """The model, but for how often it changes its mind under some perturbations."""
    model.views = model.views | {view: observed(model.classes, unstable).views[view] for view in views}
    return model


@pytest.mark.parametrize(("mirrored", "word"), [(0.2, "better"), (0.4, "no evidence"), (0.6, "no evidence")])
def test_steadier_under_scale_alone_is_not_better(mirrored, word):
    model = seen_otherwise(observed(flipped(truth(), 0.02, 3), unstable=0.2), mirrored, "flip")
    found = verdict(model, SOURCE)
    assert found.word == word
    assert found.interval is not None
    assert found.interval[0] > 0
    assert ("mirrored images do not confirm" in str(found)) == (word == "no evidence")


def test_steadier_when_mirrored_alone_is_no_evidence():
    model = seen_otherwise(observed(SOURCE.classes, unstable=0.4), 0.1, "flip", "photometric", "mix")
    assert verdict(model, SOURCE).word == "no evidence"


def test_the_score_counts_only_the_change_of_scale():
    model = observed(flipped(truth(), 0.05, 3), unstable=0.4)
    before = float(trust(model, SOURCE))
    assert float(trust(seen_otherwise(model, 0.0, "photometric", "flip", "mix"), SOURCE)) == before


@pytest.mark.parametrize("classes_left", [1, 2, 3])
def test_a_collapse_is_never_better_however_stable_and_confident(classes_left):
    collapsed = observed(SOURCE.classes.clamp(max=classes_left - 1), unstable=0.0, confidence=0.999)
    found = verdict(collapsed, SOURCE)
    assert found.word == "worse"
    assert any("no longer predicted" in reason for reason in found.reasons)


def test_consistency_counts_lost_classes_as_nothing():
    collapsed = observed(torch.zeros(IMAGES, PIXELS, dtype=torch.long), unstable=0.0)
    assert float(consistency(collapsed, torch.ones(CLASSES, dtype=torch.bool))) == pytest.approx(1 / CLASSES, abs=1e-3)


def test_anchors_by_hand():
    reference = observed(torch.tensor([[0, 0, 1, 1]]), unstable=0.0)
    reference.stable[0, 3] = False
    model = observed(torch.tensor([[0, 2, 1, 0]]), unstable=0.0)
    # Sure pixels: two of class 0 (one kept), one of class 1 (kept).
    assert float(anchors(model, reference)) == pytest.approx((0.5 * 2**0.5 + 1) / (2**0.5 + 1))


def test_an_unsure_reference_still_has_anchors_to_lose_but_an_unstable_one_has_none():
    unsure = observed(SOURCE.classes, 0.0, confidence=0.5)
    assert float(anchors(SOURCE, unsure)) == 1
    assert float(anchors(observed((SOURCE.classes + 1) % CLASSES, 0.0), unsure)) == 0
    unsure.stable[:] = False
    assert float(anchors(observed((SOURCE.classes + 1) % CLASSES, 0.0), unsure)) == 1


def test_one_image_is_too_few():
    found = verdict(observed(truth()[:1], 0.1), observed(truth()[:1], 0.4))
    assert found.word == "no evidence"
    assert found.interval is None


def test_the_verdict_is_the_same_every_time():
    candidate = observed(flipped(truth(), 0.1, 5), unstable=0.35)
    assert verdict(candidate, SOURCE).as_dict() == verdict(candidate, SOURCE).as_dict()


def test_a_bootstrap_draw_of_every_image_once_is_the_plain_score():
    once = torch.ones(1, IMAGES, dtype=torch.float64)
    assert float(trust(SOURCE, SOURCE, weights=once)) == pytest.approx(float(trust(SOURCE, SOURCE)))
    assert bootstrap_weights(IMAGES, 7).sum(dim=1).tolist() == [IMAGES] * 7


def test_other_images_or_classes_are_refused():
    other = observed(truth(), 0.1)
    other.names[0] = "another"
    with pytest.raises(ValueError, match="different images"):
        verdict(other, SOURCE)


def test_the_prior_tells_which_classes_can_die():
    lost = observed(SOURCE.classes.clamp(max=3), unstable=0.0)
    assert collapse_signs(lost, SOURCE)
    only_living = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0, 0.0])
    assert not any("predicted" in sign for sign in collapse_signs(lost, SOURCE, only_living))


def test_the_ensemble_sides_with_the_majority():
    right = observed(truth(), 0)
    noisy, wrong = observed(flipped(truth(), 0.1, 1), 0), observed((truth() + 1) % CLASSES, 0)
    votes = ensemble_agreement({"a": right, "twin": right, "b": noisy, "c": wrong})
    assert votes["a"] > votes["b"] > votes["c"]


def test_references_are_pooled_by_what_all_are_sure_of():
    both = pooled([SOURCE, observed(flipped(truth(), 0.3, 9), unstable=0.1)])
    assert int(both.stable.sum()) < int(SOURCE.stable.sum())
    assert pooled([SOURCE]) is SOURCE


def test_every_score_has_a_number():
    found = single_scores(SOURCE, SOURCE)
    assert {"entropy", "information", "nuclear_norm", "neighborhood_density", "consistency", "anchors", "trust"} <= set(
        found
    )
    assert all(value == value for value in found.values())


def with_rare_classes(shares):
    """The true labels of ``IMAGES`` images whose last two classes hold a share of the pixels each."""
    rng = torch.Generator().manual_seed(4)
    return torch.multinomial(
        torch.tensor([*[(1 - sum(shares)) / 4] * 4, *shares]), IMAGES * PIXELS, True, generator=rng
    )


@pytest.mark.parametrize(
    ("shares", "unstable", "word"),
    [((0.02, 0.02), 0.05, "no evidence"), ((0.02, 0.02), 0.5, "worse"), ((0.2, 0.2), 0.05, "worse")],
    ids=["rare, the score gains", "rare, the score does not", "a large part of every image"],
)
def test_lost_rare_classes_do_not_overrule_a_score_that_gains(shares, unstable, word):
    labels = with_rare_classes(shares).view(IMAGES, PIXELS)
    before = observed(flipped(labels, 0.05, 2), unstable=0.5, confidence=0.6)
    lost = observed(torch.where(labels > 3, labels - 4, labels), unstable)
    found = verdict(lost, before)
    assert found.word == word
    assert found.reasons[0].startswith("2 of 6 classes are no longer predicted, ")
    if word == "no evidence":
        assert found.interval is not None
        assert found.interval[0] > 0
        assert "the score gains all the same, and speaks against a collapse" in found.reasons
