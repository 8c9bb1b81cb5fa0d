"""Labels that are written once: SAM's generations, UncerDA's second half; and distillation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from papers.steps import (
    NEAR,
    C,
    Descent,
    built,
    context,
    cross_entropy,
    furthest,
    poly,
    shrunk,
    sources,
    targets,
    toy,
    train,
    up,
)
from segrefinery.data.batch import PseudoLabeledBatch
from segrefinery.stages.kinds import DistillationSettings, SelfTrainingSettings, SupervisedSettings

SGD = {"name": "sgd", "lr": 1e-2, "weight_decay": 5e-4, "momentum": 0.9, "power": 0.9, "horizon": 250}
FIXED = {"labels": "offline", "steps": 100, "mixing": "none", "strong": None, "statistics": "both"}


def attended(maps, embedding):
    """Eq. 4 to 6, the matrix of all pairs as it stands there."""
    rows, values = embedding.flatten(2).mT, maps.flatten(2).mT
    lengths = rows.norm(dim=2, keepdim=True)
    similar = ((rows @ rows.mT) / (lengths * lengths.mT + 1e-12)).relu()
    return ((similar / similar.sum(2, keepdim=True)) @ values).mT.unflatten(2, maps.shape[-2:])


def written(stage, batches):
    """What the stage's teacher writes before its first step."""
    stage.double().eval()
    for refiner in stage.chain:
        refiner.fit(stage.teacher, [], batches)
    for batch in batches:
        label, weight, index = stage.label_files(batch)
        yield PseudoLabeledBatch(batch.image, label, weight, index)


@pytest.mark.parametrize("equations", ["(8) and (10)", "(9) and (11)"])
def test_sams_two_phases(equations):
    """The module is taught on O + its attended form by the mean over labelled pixels. Frozen, it then pulls a new
    network, that learns the labels of another one which its median thresholds keep, by the mean over these pixels."""
    skip, source, target = equations == "(8) and (10)", sources(), targets()
    network = toy(target)
    stage = built(
        SupervisedSettings, context(network), steps=100, optimizer=SGD, hands_on="refiners",
        weights={"main": 0, "aux": 0}, refine={"pixel_attention": {"train": True}},
    )  # fmt: skip
    embed = copy.deepcopy(stage.refiners["pixel_attention"].attention["logits"].embed).double()
    train(stage, source, source, prepare=False)
    thrown_away = copy.deepcopy(network)
    descent = Descent(thrown_away, poly(1e-2, 250), 5e-4, beside=embed.parameters())
    for number, batch in enumerate(source):
        maps = thrown_away(batch.image).logits
        judged = up(maps + attended(maps, embed(maps)), batch.label.shape[-2:])
        descent.step(number, F.cross_entropy(judged, batch.label, ignore_index=255))
    assert furthest(stage.refiners["pixel_attention"].attention["logits"].embed, embed) < NEAR

    labeller = toy(target, seed=1)
    handed_on = {name: module.state_dict() for name, module in stage.handed_on().items()}
    pull = {"target": "skip" if skip else "plain", "domains": "both" if skip else "target", "divisor": "elements"}
    stage = built(
        SelfTrainingSettings, context(network, labeller, handed_on), optimizer=SGD,
        weights={"main": 1, "aux": 0, "mean_over": "labelled"},
        refine={"confidence_threshold": {"classes": "fitted", "bins": 10_000}, "pixel_attention": pull}, **FIXED,
    )  # fmt: skip
    labels = [*written(stage, target)]
    for batch, label in zip(labels, median_labels(labeller.eval(), target), strict=True):
        assert (batch.label == label).double().mean() > 0.98  # a threshold is a bin's lower edge
    train(stage, source, labels, prepare=False)

    def pulled(maps):
        with torch.no_grad():
            wanted = attended(maps, embed(maps)) + (maps if skip else 0)
        return (maps - wanted).abs().mean()

    descent = Descent(network, poly(1e-2, 250), 5e-4)
    for number, (one, other) in enumerate(zip(source, labels, strict=True)):
        on_source, on_target = network(one.image).logits, network(other.image).logits
        taught = [(on_source, one.label), (on_target, other.label)]
        loss = sum(F.cross_entropy(up(maps, label.shape[-2:]), label, ignore_index=255) for maps, label in taught)
        descent.step(number, loss + 0.1 * (pulled(on_target) + (pulled(on_source) if skip else 0)))
    assert furthest(stage.model, network) < NEAR
    assert furthest(stage.refiners["pixel_attention"].attention["logits"].embed, embed) < NEAR


@torch.no_grad()
def median_labels(network: nn.Module, batches):
    """SSL.py: x[round(n / 2)] of a class's sorted confidences, 0.9 at most."""
    probs = [network(batch.image).logits.softmax(1) for batch in batches]
    confidence, said = torch.cat([each.amax(1) for each in probs]), torch.cat([each.argmax(1) for each in probs])
    ranked = [confidence[said == kind].sort().values for kind in range(C)]
    thresholds = torch.stack([each[round(0.5 * len(each))].clamp(max=0.9) for each in ranked])
    for batch, each in zip(batches, probs, strict=True):
        kept = (each.amax(1) >= thresholds[each.argmax(1)]).double()
        size = batch.image.shape[-2:]
        yield up(each, size).argmax(1).masked_fill(shrunk(kept, size) == 0, 255)


def test_uncerdas_self_training_steps():
    """trainer_ms_variance.py: exp(-D) CE + D of both classifiers, D = KL(other || this), nothing detached; the target
    alone, and batch norm learns. An ignored pixel keeps its D."""
    source, target = sources(), targets()
    network = toy(target)
    for norm in (network.fine_norm, network.coarse_norm):
        norm.requires_grad_(False)
    stage = built(
        SelfTrainingSettings, context(network), batch_norm="train", source_weight=0, optimizer=SGD,
        target_loss="variance_regularized", weights={"main": 1, "aux": 0.5},
        refine={"entropy_mixture": {"min_pixels": 20}}, **FIXED,
    )  # fmt: skip
    labels = [*written(stage, target)]
    assert all(0 < (batch.label == 255).double().mean() < 1 for batch in labels)
    train(stage, source, labels, prepare=False)

    descent = Descent(network.requires_grad_(True), poly(1e-2, 250), 5e-4)
    for number, batch in enumerate(labels):
        seen, loss = network(batch.image), torch.zeros(()).double()
        both = [up(logits, batch.label.shape[-2:]) for logits in (seen.logits, seen.aux_logits)]
        for weight, this, other in ((1.0, *both), (0.5, *both[::-1])):
            here, there = this.log_softmax(1), other.log_softmax(1)
            apart = (there.exp() * (there - here)).sum(1)
            taught = F.cross_entropy(this, batch.label, ignore_index=255, reduction="none")
            loss = loss + weight * ((-apart).exp() * taught + apart).mean()
        descent.step(number, loss)
    assert furthest(stage.model, network) < NEAR


def test_distillation_steps():
    """Hard labels above a confidence, from an image and its mirror image, and KL(teacher || student), its logarithm in
    place, as a mean over pixels and classes."""
    source, target = sources(), targets()
    student, teacher = toy(target, seed=2), toy(target)
    stage = built(
        DistillationSettings, context(student, teacher), steps=50, optimizer=SGD, confidence=0.23, divisor="elements",
        strong=None, weights={"main": 1, "aux": 0},
    )  # fmt: skip
    train(stage, source, target)
    teacher.eval()
    descent = Descent(student, poly(1e-2, 250), 5e-4)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        with torch.no_grad():
            wanted = teacher(other.image).logits
            mirrored = teacher(other.image.flip(-1)).logits.softmax(1).flip(-1)
            confidence, label = up((wanted.softmax(1) + mirrored) / 2, other.image.shape[-2:]).max(1)
        loss = cross_entropy(student(one.image).logits, one.label)
        logits = student(other.image).logits
        loss = loss + cross_entropy(logits, label.masked_fill(confidence <= 0.23, 255))
        apart = (wanted.softmax(1) * (wanted.log_softmax(1) - logits.log_softmax(1))).mean()
        descent.step(number, loss + apart)
    assert furthest(stage.model, student) < NEAR
