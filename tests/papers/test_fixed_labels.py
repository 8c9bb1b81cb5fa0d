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
    context,
    cross_entropy,
    dice,
    furthest,
    poly,
    shrunk,
    sources,
    stage_of,
    targets,
    toy,
    train,
    up,
)
from segrefinery.data.augment import strong_view
from segrefinery.data.batch import PseudoLabeledBatch

FAST = {"optimizer.lr": 1e-2, "optimizer.horizon": 250}


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


@pytest.mark.parametrize("task", ["gta5", "synthia"])
def test_sams_two_phases(task):
    """The module is taught on O + its attended form by the mean over labelled pixels. Frozen, it then pulls a new
    network, that learns the labels of another one which its median thresholds keep, by the mean over these pixels."""
    skip, source, target = task == "gta5", sources(), targets()  # equations (8) and (10), or (9) and (11)
    network = toy(target)
    stage = stage_of(f"pixel_attention_{task}", "attention", context(network), FAST)
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
    finer = FAST | {"refine.confidence_threshold.bins": 10_000}
    stage = stage_of(f"pixel_attention_{task}", "adapt", context(network, labeller, handed_on), finer)
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
    stage = stage_of("uncerda", "adapt", context(network), FAST | {"refine.entropy_mixture.min_pixels": 20})
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
    place, as a mean over pixels and classes; on a strong view of the image, which both see."""
    source, target = sources(), targets()
    student, teacher = toy(target, seed=2), toy(target)
    stage = stage_of("cpsl_distilled", "distill", context(student, teacher), FAST | {"confidence": 0.23})
    train(stage, source, target)
    teacher.eval()
    descent = Descent(student, poly(1e-2, 250), 2e-4)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        strong = strong_view(other.image, dice(number))
        with torch.no_grad():
            mirrored = teacher(other.image.flip(-1)).logits.softmax(1).flip(-1)
            probs = (teacher(other.image).logits.softmax(1) + mirrored) / 2
            confidence, label = up(probs, other.image.shape[-2:]).max(1)
            wanted = teacher(strong).logits
        loss = cross_entropy(student(one.image).logits, one.label)
        logits = student(strong).logits
        loss = loss + cross_entropy(logits, label.masked_fill(confidence <= 0.23, 255))
        apart = (wanted.softmax(1) * (wanted.log_softmax(1) - logits.log_softmax(1))).mean()
        descent.step(number, loss + apart)
    assert furthest(stage.model, student) < NEAR
