"""Our own baselines and DACS: plain self-training, with a source and without, and TENT."""

import copy

import torch
import torch.nn.functional as F

from papers.steps import (
    NEAR,
    C,
    Descent,
    class_mixed,
    context,
    cross_entropy,
    dice,
    follow,
    furthest,
    measure,
    poly,
    ramp,
    shrunk,
    sources,
    stage_of,
    statistics,
    still,
    targets,
    toy,
    train,
    up,
)
from segrefinery.data.augment import strong_view
from segrefinery.data.batch import LabeledBatch

FAST = {"steps": 100, "optimizer.lr": 1e-2, "optimizer.warmup": 3, "teacher.decay": 0.7}


def warmed_up(number):
    return 1e-2 * (1 - number / 100) * min((number + 1) / 3, 1)


def taught(prediction, label, weight):
    return cross_entropy(prediction.logits, label, weight) + 0.1 * cross_entropy(prediction.aux_logits, label, weight)


class Medians:
    """What is kept of each class: its more confident half, or all above 0.9, by a moving average that has the batch."""

    def __init__(self):
        self.histogram = torch.zeros(C, 1000).double()

    def confident(self, probs):
        confidence, said = probs.float().max(1)
        places = (confidence.double() * 1000).long().clamp(max=999)
        counts = torch.stack([places[said == kind].bincount(minlength=1000) for kind in range(C)])
        self.histogram = 0.99 * self.histogram + 0.01 * counts
        thresholds = torch.zeros(C)
        for kind, row in enumerate(self.histogram):
            enough = [place for place in range(1000) if row[place:].sum() >= 0.5 * row.sum()]
            thresholds[kind] = min(max(enough) / 1000, 0.9) if row.sum() else 0.0
        return (confidence >= thresholds[said]).double()


def labelled(teacher, image, medians):
    """Label and weight of every pixel."""
    with torch.no_grad():
        probs = teacher(image).logits.softmax(1)
        weight = shrunk(medians.confident(probs), image.shape[-2:])
        return up(probs, image.shape[-2:]).argmax(1).masked_fill(weight == 0, 255), weight


def test_self_trainings_steps():
    """Batch norm is measured on the target first; then it follows what the student sees of it, not the source."""
    source, target = sources(), targets()
    network = toy(target)
    stage = stage_of("self_training", "adapt", context(network), FAST)
    train(stage, source, target)

    measure(network, target)
    teacher, medians = copy.deepcopy(network).eval(), Medians()
    descent = Descent(network, warmed_up, 0.01, adam=True)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        rngs = dice(number)
        mixed, label, weight, _ = class_mixed(one, other.image, *labelled(teacher, other.image, medians), rngs)
        with still(network):
            on_source = network(one.image)
        loss = taught(on_source, one.label, 1.0) + taught(network(strong_view(mixed, rngs)), label, weight)
        descent.step(number, loss)
        follow(teacher, network, ramp(number + 1), buffers=True)
    assert furthest(stage.model, network) < NEAR
    assert furthest(statistics(stage.teacher.network), statistics(teacher)) < NEAR
    assert furthest([stage.refiners["confidence_threshold"].histogram], [medians.histogram]) < NEAR


def test_dacs_steps():
    """Every target pixel weighs the share of its image's that are confident; batch norm follows both domains."""
    source, target = sources(), targets()
    network = toy(target)
    changes = {"steps": 100, "optimizer.lr": 1e-2, "teacher.decay": 0.7, "refine.confidence_share.threshold": 0.25}
    stage = stage_of("dacs", "adapt", context(network), changes)
    train(stage, source, target)

    teacher = copy.deepcopy(network).eval()
    descent = Descent(network, poly(1e-2, 100), 5e-4)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        rngs, size = dice(number), other.image.shape[-2:]
        with torch.no_grad():
            probs = teacher(other.image).logits.softmax(1)
            share = (probs.amax(1) > 0.25).double().mean((1, 2))[:, None, None].expand(2, *size)
        mixed, label, weight, _ = class_mixed(one, other.image, up(probs, size).argmax(1), share, rngs)
        loss = taught(network(one.image), one.label, 1.0) + taught(network(strong_view(mixed, rngs)), label, weight)
        descent.step(number, loss)
        follow(teacher, network, ramp(number + 1), buffers=True)
    assert furthest(stage.model, network) < NEAR
    assert furthest(stage.teacher.network, teacher) < NEAR


def test_steps_without_a_source(monkeypatch):
    """Parts of one target image lie over the next; masked images are learned too, and a tether holds to the network as
    the stage began. Batch norm's statistics stand still."""
    target = targets()
    network = toy(target)

    def choose(model, images, look):
        del images, look
        measure(model, target)

    monkeypatch.setattr("segrefinery.stages.self_training.choose_statistics", choose)
    stage = stage_of("source_free", "adapt", context(network), FAST | {"refine.masked_consistency.block": 8})
    train(stage, [None] * len(target), target, look=lambda model: model)

    measure(network, target)
    network.eval()
    teacher, before, medians = copy.deepcopy(network), copy.deepcopy(network), Medians()
    descent = Descent(network, warmed_up, 0.01, adam=True)
    for number, other in enumerate(target):
        rngs, image = dice(number), other.image
        label, weight = labelled(teacher, image, medians)
        theirs = LabeledBatch(image.roll(1, 0), label.roll(1, 0), other.index)
        mixed, mixed_label, rest, pasted = class_mixed(theirs, image, label, weight, rngs)
        mixed = strong_view(mixed, rngs)
        on_mixed, seen = network(mixed), strong_view(image, rngs)
        loss = taught(on_mixed, mixed_label, torch.where(pasted, weight.roll(1, 0), rest))
        kept = torch.stack([torch.rand(1, image.shape[-2] // 8, image.shape[-1] // 8, generator=rng) for rng in rngs])
        shown = F.interpolate((kept > 0.7).double(), image.shape[-2:], mode="nearest")
        loss = loss + cross_entropy(network(seen * shown).logits, label, weight)
        with torch.no_grad():
            held = before(mixed).logits.log_softmax(1)
        loss = loss + 0.1 * (held.exp() * (held - on_mixed.logits.log_softmax(1))).sum(1).mean()
        descent.step(number, loss)
        follow(teacher, network, ramp(number + 1))
    assert furthest(stage.model, network) < NEAR
    assert furthest(stage.teacher.network, teacher) < NEAR
    assert furthest(statistics(stage.model), statistics(before)) < NEAR


def test_tents_steps():
    """Scales and shifts of batch norm descend the entropy by Adam at one rate, without decay."""
    target = targets()
    network = toy(target)
    stage = stage_of("entropy_minimization", "adapt", context(network))
    train(stage, [None] * len(target), target)

    measure(network, target)
    before = copy.deepcopy(network)
    norms = [parameter for norm in (network.fine_norm, network.coarse_norm) for parameter in norm.parameters()]
    adam = torch.optim.Adam(norms, lr=1e-3, betas=(0.9, 0.999))
    for other in target:
        log_probs = network(other.image).logits.log_softmax(1)
        adam.zero_grad()
        (-(log_probs.exp() * log_probs).sum(1).mean() / torch.tensor(C).log()).backward()
        adam.step()
    moved = [(mine - start).detach() for mine, start in zip(stage.model.parameters(), before.parameters(), strict=True)]
    wanted = [(mine - start).detach() for mine, start in zip(network.parameters(), before.parameters(), strict=True)]
    assert furthest(moved, wanted) < 1e-4
    assert furthest(statistics(stage.model), statistics(network)) < NEAR
