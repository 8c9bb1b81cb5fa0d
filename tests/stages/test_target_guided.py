"""Rounds: what guides them, what they record and tell, and when they end."""

import logging
import warnings

import pytest
import torch

from segrefinery.refine.entropy_mixture import TargetGuidedSettings
from segrefinery.stages.target_guided import RoundRecord, TargetGuided, settled
from toys import ToySegmenter, unlabeled

CLASSES = ["a", "b", "c", "d", "e"]
COUNTS = torch.tensor([[50, 0, 0, 0, 0], [40, 5, 5, 0, 0], [10, 10, 10, 10, 10]])


def record(entropies, uncertain, number=2):
    return RoundRecord(number, ["a", "b", "c"], entropies, uncertain, "target_guided")


def test_when_rounds_settle():
    before = record([0.5, 0.5, 0.2], [0, 1])
    assert "did not change" in (settled(before, record([0.4, 0.5, 0.2], [1, 0], 3)) or "")
    assert "no longer falls" in (settled(before, record([0.5, 0.2, 0.5], [0, 2], 3)) or "")
    assert settled(before, record([0.4, 0.2, 0.5], [2, 0], 3)) is None


def test_a_record_survives_its_file(tmp_path):
    one = record([0.5, 0.25, 1.0], [2, 0])
    one.probabilities = [0.25, 0.75]
    one.save(tmp_path / "new")
    assert RoundRecord.load(tmp_path / "new") == one
    assert one.mean_entropy == pytest.approx(1.75 / 3)


def built(**settings) -> TargetGuided:
    return TargetGuided(TargetGuidedSettings(**settings), CLASSES)


def begun(folder, rounds, **settings):
    """The guidance after so many rounds without training, and why each need not train."""
    torch.manual_seed(0)
    network, guidance = ToySegmenter().eval(), built(**settings)
    return guidance, [guidance.begin(network, [unlabeled(2)], folder / str(n + 1)) for n in range(rounds)]


@pytest.mark.filterwarnings("ignore:guided sampling is as good as uniform")
def test_the_second_round_is_guided_and_recorded(tmp_path):
    first, _ = begun(tmp_path, 1)
    assert not first.guides_sampling
    guidance, reasons = begun(tmp_path, 2, uncertain=2)
    assert guidance.guides_sampling
    probabilities = guidance.probabilities(COUNTS)
    assert probabilities.sum().item() == pytest.approx(1)
    guided = RoundRecord.load(tmp_path / "2")
    assert (guided.number, len(guided.uncertain), guided.sampling) == (2, 2, "target_guided")
    assert guided.probabilities == pytest.approx(probabilities.tolist())
    assert guided.gains == pytest.approx((probabilities @ COUNTS.double() / COUNTS.double().mean(0)).tolist())
    assert guided.class_entropies == pytest.approx(guidance.entropies.tolist())
    assert reasons == [None, None]
    resumed = built(uncertain=2)
    resumed.load_state_dict(guidance.state_dict())  # resumed inside the round, which does not begin again
    assert torch.equal(resumed.probabilities(COUNTS), probabilities)


def test_a_settled_round_ends_all_later_ones(tmp_path):
    _, reasons = begun(tmp_path, 4)
    assert reasons == [None, None, "the uncertain classes did not change", "an earlier round settled"]
    assert RoundRecord.load(tmp_path / "3").settled == reasons[2]


@pytest.mark.filterwarnings("ignore:guided sampling is as good as uniform")
def test_uncertain_classes_that_the_source_lacks_and_more_than_there_are(tmp_path):
    guidance, _ = begun(tmp_path, 2, uncertain=99)
    assert len(RoundRecord.load(tmp_path / "2").uncertain) == 5
    assert guidance.probabilities(torch.zeros(3, 5)).tolist() == pytest.approx([1 / 3] * 3)
    assert RoundRecord.load(tmp_path / "2").gains == [None] * 5


def test_all_classes_are_balanced_from_the_start(tmp_path):
    guidance, _ = begun(tmp_path, 1, classes="all")
    assert guidance.guides_sampling
    probabilities = guidance.probabilities(torch.tensor([[10**6, 0, 0, 0, 0], [10**6, 10, 0, 0, 0]]))
    assert probabilities[1] > probabilities[0]
    assert RoundRecord.load(tmp_path / "1").sampling == "balanced"


CROWDED = torch.randint(200, 400, (50, 5), generator=torch.Generator().manual_seed(0))
"""Every image holds every class, as with few classes nearly all do."""


def test_sampling_that_is_as_good_as_uniform_is_warned_of_and_the_median_parts_the_images(caplog):
    paper = built(classes="all")
    with pytest.warns(UserWarning, match=r"as good as uniform.*midpoint: median"):
        even = paper.probabilities(CROWDED)
    assert even.max() / even.min() < 1.02
    rare = CROWDED.clone()
    rare[:25, 4] = 1
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        parted = built(classes="all", midpoint="median", balance=0.3).probabilities(rare)
    assert "times as often as under uniform sampling: a " in caplog.text
    assert parted.max() / parted.min() > 1.2
    with pytest.warns(UserWarning, match=r"as good as uniform.*raise steepness"):
        built(classes="all", midpoint="median").probabilities(CROWDED)  # nothing parts such images


@pytest.mark.parametrize("midpoint", [-0.1, 1.5, "mean"])
def test_a_midpoint_is_a_share_or_the_median(midpoint):
    with pytest.raises(ValueError, match="midpoint"):
        TargetGuidedSettings(midpoint=midpoint)
