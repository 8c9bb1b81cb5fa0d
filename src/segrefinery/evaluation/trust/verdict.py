"""Did it help? A candidate against source-only, on target images nobody has labelled.

The combined score:

    trust = steadiness * sqrt(anchors)

``steadiness`` is the class-balanced agreement of a model with itself when it sees the image at another scale, over the
classes that either model uses: lost classes count 0. Other perturbations (colour, flip, mix) are told in the tables
but not counted, for augmentation and ClassMix train a student to be steady under them, whether its labels are right or
not. Steadiness can be won by being confidently wrong, so it is multiplied by ``anchors``: of the pixels where the
reference (source-only) is confident and does not change under any perturbation, the class-balanced share on which the
model still agrees. Their root, because the reference is often wrong where it is sure, and to leave it there is a merit.

``better`` needs a gain in trust beyond its bootstrap interval, and a second witness: the same score with steadiness
under mirroring in place of scale must gain beyond its interval too. A student of masked images or of an average over
scales is steadier under scale, right or wrong; both it and its source saw mirrored images. ``worse`` is a loss of trust
beyond the interval, or a sign of collapse, which overrules the score; but where all that was lost are rare classes, and
the score, to which they count as nothing, gains all the same, the two contradict each other: no evidence. How often
that is right: docs/benchmarks.md, where the runs on which this form was chosen stand apart from those that came after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from segrefinery.core.randomness import generator
from segrefinery.evaluation.trust import scores
from segrefinery.evaluation.trust.collect import SEED, Observation

DRAWS = 1000
CONFIDENT = 0.9
"""Confidence above which a stable pixel of the reference is an anchor; the median of the stable if lower."""
EXPECTED = 0.002
"""Share of the pixels from which a class counts as one that is there."""
SMALLEST_GAIN = 0.01
"""A difference of the combined score that is smaller than this is no evidence, however narrow its interval."""
DEAD, RARE, LARGEST, REST, JUMP, FEWEST_ANCHORS = 0.02, 0.1, 0.9, 0.5, 0.5, 0.6
"""Collapse: a class with less than this of its share before; the share of the pixels below which the lost are rare; the
largest class, where the others keep less than this part of what they should have; total variation; anchors kept."""
RANKS, CONFIRMS = "scale", "flip"
"""The perturbation whose steadiness is part of the combined score, and the one that must confirm a ``better``."""

Word = Literal["better", "no evidence", "worse"]


@dataclass
class Verdict:
    """What the evidence allows to say of a candidate.

    Attributes:
        word: better, no evidence or worse than source-only.
        difference: of the combined score, which lies in [0, 1].
        interval: 95 % of the paired bootstrap over images, or None where there are not enough images.
        reasons: sentences that a user can check.
    """

    word: Word
    difference: float
    interval: tuple[float, float] | None
    reasons: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        low_high = f", 95 % interval {self.interval[0]:+.3f} to {self.interval[1]:+.3f}" if self.interval else ""
        head = {"better": "better than", "worse": "worse than", "no evidence": "no evidence of a change against"}
        return f"{head[self.word]} source-only (trust {self.difference:+.3f}{low_high}): {'; '.join(self.reasons)}"


def expected_classes(*observations: Observation) -> Tensor:
    """C bool: the classes that any of the models gives at least ``EXPECTED`` of the pixels; all if none does."""
    expected = torch.stack([observation.shares for observation in observations]).amax(dim=0) >= EXPECTED
    return expected if expected.any() else torch.ones_like(expected)


def steadiness(candidate: Observation, expected: Tensor, weights: Tensor | None = None, view: str = RANKS) -> Tensor:
    """Class-balanced agreement under a perturbation, of scale by default: B values for B x N image weights."""
    return scores.balanced_agreement(_summed(candidate.views[view], weights), expected)


def consistency(candidate: Observation, expected: Tensor, weights: Tensor | None = None) -> Tensor:
    """Class-balanced agreement under perturbation, mean over all perturbations: B values for B x N image weights."""
    per_view = [
        scores.balanced_agreement(_summed(counts, weights), expected)
        for name, counts in sorted(candidate.views.items())
    ]
    return torch.stack(per_view).mean(dim=0)


def anchors(candidate: Observation, reference: Observation, weights: Tensor | None = None) -> Tensor:
    """Share of the reference's sure pixels on which the model agrees with it, balanced over classes: B values."""
    confidence, theirs = reference.probs.float().max(dim=-1)
    stable = confidence[reference.stable]
    bar = min(CONFIDENT, float(stable.median())) if len(stable) else CONFIDENT
    sure = reference.stable & (confidence >= bar)
    one_hot = torch.nn.functional.one_hot(theirs, candidate.num_classes) * sure.unsqueeze(-1)
    kept = (one_hot * (candidate.classes == theirs).unsqueeze(-1)).sum(dim=1)
    return scores.balanced_recall(_summed(kept, weights), _summed(one_hot.sum(dim=1), weights))


def combined(steadiness: Any, anchors: Any) -> Any:
    """The form of the combined score, for tensors and for numbers."""
    return steadiness * anchors**0.5


def trust(
    candidate: Observation,
    reference: Observation,
    expected: Tensor | None = None,
    weights: Tensor | None = None,
    view: str = RANKS,
) -> Tensor:
    """The combined score: B values in [0, 1] for B x N image weights."""
    expected = expected_classes(candidate, reference) if expected is None else expected
    return combined(steadiness(candidate, expected, weights, view), anchors(candidate, reference, weights))


def verdict(candidate: Observation, source_only: Observation, prior: Tensor | None = None) -> Verdict:
    """Compare a candidate with source-only by a paired bootstrap over images, always with the same draws.

    Args:
        prior: C class shares of the source labels, where they are known; see ``collapse_signs``.

    Raises:
        ValueError: the two looked at other images or know other classes.
    """
    check_comparable(candidate, source_only)
    expected = expected_classes(candidate, source_only)
    difference = float(trust(candidate, source_only, expected) - trust(source_only, source_only, expected))
    alarming = collapse_signs(candidate, source_only, prior)
    told = _terms(candidate, source_only, expected)
    if len(candidate.names) < 2:
        few = "one target image is too few for an interval"
        return Verdict("worse" if alarming else "no evidence", difference, None, [*alarming, few, *told])
    low, high = gain_interval(candidate, source_only, expected)
    gains = low > 0 and difference >= SMALLEST_GAIN
    contradicted = gains and only_rare_classes_lost(alarming, candidate, source_only, prior)
    word: Word = "no evidence"
    if (alarming and not contradicted) or high < -SMALLEST_GAIN:
        word = "worse"
    elif alarming:
        told.append("the score gains all the same, and speaks against a collapse")
    elif gains:
        if gain_interval(candidate, source_only, expected, CONFIRMS)[0] > 0:
            word = "better"
        else:
            told.append("its mirrored images do not confirm it")
    return Verdict(word, difference, (low, high), [*alarming, *told])


def gain_interval(
    candidate: Observation, source_only: Observation, expected: Tensor, view: str = RANKS
) -> tuple[float, float]:
    """95 % interval of the gain in trust over source-only, by a paired bootstrap over images."""
    weights = bootstrap_weights(len(candidate.names))
    ours, theirs = (trust(each, source_only, expected, weights, view) for each in (candidate, source_only))
    return _interval(ours - theirs)


def _interval(draws: Tensor) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high


def collapse_signs(candidate: Observation, reference: Observation, prior: Tensor | None = None) -> list[str]:
    """Sentences about what looks like a collapse of the candidate; empty if nothing does.

    Shares are compared with two expectations, what the reference says of these images and ``prior``, the shares of the
    source labels: a candidate that comes close to either has not collapsed. Where a background is most of every image,
    to take back false positives makes it larger, and that is no sign.
    """
    now, before = candidate.shares, reference.shares
    priors = [before] if prior is None else [before, prior.double()]
    dead, alive = _dead(candidate, reference, prior)
    signs = []
    if _many(dead, alive):
        count, held = f"{int(dead.sum())} of {int(alive.sum())}", 100 * float(before[dead].sum())
        signs.append(f"{count} classes are no longer predicted, which were {held:.0f} % of the pixels")
    if float(now.max()) > LARGEST and others_are_lost(candidate, reference, prior):
        signs.append(f"one class covers {100 * float(now.max()):.0f} % of the pixels")
    if (jump := min(float(scores.total_variation(now, each)) for each in priors)) > JUMP:
        signs.append(f"{100 * jump:.0f} % of the pixels moved to other classes")
    if float(anchors(candidate, reference)) < FEWEST_ANCHORS:
        signs.append(f"less than {100 * FEWEST_ANCHORS:.0f} % of what source-only was sure of is kept")
    return signs


def only_rare_classes_lost(
    signs: Sequence[str], candidate: Observation, reference: Observation, prior: Tensor | None = None
) -> bool:
    """Whether the only one of the signs of collapse are classes that are no longer predicted, and they were less than
    ``RARE`` together."""
    dead, alive = _dead(candidate, reference, prior)
    return len(signs) == 1 and _many(dead, alive) and float(reference.shares[dead].sum()) < RARE


def _dead(candidate: Observation, reference: Observation, prior: Tensor | None) -> tuple[Tensor, Tensor]:
    """C bool twice: the classes that are lost, and those that both the reference and the prior expect."""
    before = reference.shares
    alive = before >= EXPECTED if prior is None else torch.minimum(before, prior.double()) >= EXPECTED
    return alive & (candidate.shares < DEAD * before), alive


def _many(dead: Tensor, alive: Tensor) -> bool:
    """Whether so many of the living classes are dead that it looks like a collapse."""
    return int(dead.sum()) >= max(2, 0.2 * int(alive.sum()))


def others_are_lost(candidate: Observation, reference: Observation, prior: Tensor | None = None) -> bool:
    """Whether all classes but the candidate's largest have less than ``REST`` of the share they should have: the lower
    of the reference's and the prior's. It is so only if all of the bootstrap's 95 % interval is below."""
    largest = int(candidate.shares.argmax())
    weights = bootstrap_weights(len(candidate.names)) if len(candidate.names) > 1 else None
    kept, should = ((observation.classes != largest).double().mean(dim=1) for observation in (candidate, reference))
    kept, should = _summed(kept, weights) / len(kept), _summed(should, weights) / len(should)
    if prior is not None:
        should = should.clamp(max=1 - float(prior[largest]))
    return bool(torch.quantile(kept - REST * should, 0.975) < 0)


def single_scores(candidate: Observation, reference: Observation | None = None) -> dict[str, float]:
    """Every score of one model over all its sampled pixels, for tables and the trust study."""
    flat = candidate.probs.double().flatten(0, 1)
    flat = flat / flat.sum(dim=1, keepdim=True)
    expected = expected_classes(candidate, reference) if reference is not None else expected_classes(candidate)
    single = {
        "entropy": scores.entropy(flat),
        "information": scores.information(flat),
        "nuclear_norm": scores.nuclear_norm(flat),
        "neighborhood_density": candidate.density.mean(),
        "consistency": consistency(candidate, expected),
    }
    for name, counts in candidate.views.items():
        single[f"agreement_{name}"] = scores.agreement(counts.sum(dim=0))
        single[f"balanced_{name}"] = scores.balanced_agreement(counts.sum(dim=0), expected)
    if reference is not None:
        single["anchors"] = anchors(candidate, reference)
        single["trust"] = trust(candidate, reference, expected)
    return {name: float(value) for name, value in single.items()}


def ensemble_agreement(observations: Mapping[str, Observation]) -> dict[str, float]:
    """Class-balanced agreement (mean IoU) of each model with the mean of all of them.

    Source: EnsV, Hu et al. 2023 ("Mixed samples ... ensemble-based validation"): the ensemble stands in for labels.
    """
    mean = torch.stack([observation.probs.float() for observation in observations.values()]).mean(dim=0)
    voted = mean.argmax(dim=-1)
    agreement = {}
    for name, observation in observations.items():
        counts = scores.joint_counts(voted, observation.classes, observation.num_classes)
        used = (counts.sum(0) + counts.sum(1)) > 0
        agreement[name] = float(scores.balanced_agreement(counts, used, floor=0.0))
    return agreement


def pooled(observations: Sequence[Observation]) -> Observation:
    """Several references as one: mean probabilities, sure only where all of them are stable."""
    first = observations[0]
    if len(observations) == 1:
        return first
    for other in observations[1:]:
        check_comparable(first, other)
    return Observation(
        first.names,
        torch.stack([observation.probs.float() for observation in observations]).mean(dim=0).half(),
        {
            name: torch.stack([observation.views[name] for observation in observations]).sum(dim=0)
            for name in first.views
        },
        torch.stack([observation.stable for observation in observations]).all(dim=0),
        torch.stack([observation.density for observation in observations]).mean(dim=0),
    )


def bootstrap_weights(images: int, draws: int = DRAWS) -> Tensor:
    """draws x images float64: how often each image was drawn, always the same draws."""
    drawn = torch.randint(images, (draws, images), generator=generator(SEED, "bootstrap", images))
    return torch.nn.functional.one_hot(drawn, images).sum(dim=1).double()


def check_comparable(first: Observation, second: Observation) -> None:
    """Refuse observations of other images, pixels or classes."""
    if first.names != second.names:
        raise ValueError("the two observations are of different images")
    if first.probs.shape != second.probs.shape:
        raise ValueError(f"the observations differ in shape: {tuple(first.probs.shape)}, {tuple(second.probs.shape)}")


def _terms(candidate: Observation, reference: Observation, expected: Tensor) -> list[str]:
    told = []
    for view, how in ((RANKS, "at another scale"), (CONFIRMS, "mirrored")):
        before, after = (float(steadiness(each, expected, view=view)) for each in (reference, candidate))
        told.append(f"agreement with itself {how} {before:.2f} -> {after:.2f}")
    return [*told, f"{100 * float(anchors(candidate, reference)):.0f} % of what source-only was sure of is kept"]


def _summed(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values of images (N x ...) summed over all of them, or over B weighted draws (B x ...)."""
    values = values.double()
    return values.sum(dim=0) if weights is None else torch.tensordot(weights, values, dims=1)
