"""ProDA's first stage and CPSL, as our notes tell of microsoft/ProDA and lslrh/CPSL (models/adaptation_modelv2.py)."""

import copy

import pytest
import torch
import torch.nn.functional as F

from papers.steps import (
    NEAR,
    NEAR_SINGLE,
    C,
    Descent,
    context,
    cross_entropy,
    dice,
    follow,
    furthest,
    poly,
    sources,
    stage_of,
    statistics,
    targets,
    toy,
    train,
    up,
)
from segrefinery.data.augment import affine_strong_view, apply_affine
from segrefinery.data.mixing import cutmix
from segrefinery.data.settings import AffineViewSettings
from segrefinery.refine.self_labeling import balanced_positions, uniform_positions

FAST = {"optimizer.lr": 1e-2, "optimizer.horizon": 90, "teacher.decay": 0.9}


def symmetric(logits, label):
    """0.1 CE + RCE over all pixels, log 0 of a label being log 1e-4."""
    probs = up(logits, label.shape[-2:]).softmax(1).clamp(1e-7, 1)
    known = label != 255
    wanted = F.one_hot(label.masked_fill(~known, 0), C).movedim(-1, 1).double().clamp(1e-4, 1)
    return 0.1 * cross_entropy(logits, label) + (-(probs * wanted.log()).sum(1) * known).mean()


def divergence(one, other):
    """KL(one || other) of logits, per pixel."""
    one, other = one.log_softmax(1), other.log_softmax(1)
    return (one.exp() * (one - other)).sum(1)


def on_strong_view(loss, weak, strong, warp):
    """Mean over pixels and classes of what the strong view shows of the weak one."""
    moved, hidden = apply_affine(weak, warp)
    return loss(moved, strong)[~hidden].sum() / (C * (~hidden).sum())


def class_means(teacher, batches, over_images, normalized):
    """First prototypes: means over a class's pixels, or of the means of images with ten of them; and class shares."""
    sums, numbers, pixels = torch.zeros(C, 8).double(), torch.zeros(C).double(), torch.zeros(C).double()
    for batch in batches:
        seen = teacher(batch.image)
        maps = F.normalize(seen.features, dim=1) if normalized else seen.features
        for features, label in zip(maps, seen.logits.argmax(1), strict=True):
            for kind in range(C):
                own = features[:, label == kind]
                pixels[kind] += own.shape[1]
                if not over_images:
                    sums[kind], numbers[kind] = sums[kind] + own.sum(1), numbers[kind] + own.shape[1]
                elif own.shape[1] >= 10:
                    sums[kind], numbers[kind] = sums[kind] + own.mean(1), numbers[kind] + 1
    return sums / numbers[:, None], pixels / pixels.sum()


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_prodas_steps(preset):
    source, target = sources(), targets()
    network = toy(target, auxiliary=False)
    changes = {"refine.prototypes.preset": preset, "refine.prototypes.momentum": 0.7}
    stage = stage_of("proda", "adapt", context(network), FAST | changes)
    train(stage, source, target)

    teacher, warmed = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    descent = Descent(network, poly(1e-2, 90), 2e-4, heads=1)
    with torch.no_grad():
        prototypes, _ = class_means(teacher, target, preset == "official", normalized=False)

    def nearness(features):
        return -(features[:, None] - prototypes[None, :, :, None, None]).square().sum(2).sqrt()

    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        image, rngs = other.image, dice(number)
        with torch.no_grad():
            view = teacher(image)
            weak = nearness(view.features)
            product = weak.softmax(1) * warmed(image).logits.softmax(1)
            probs = product / product.sum(1, keepdim=True)
        loss = cross_entropy(network(one.image).logits, one.label)
        logits = network(image).logits
        loss = loss + symmetric(logits, up(probs, image.shape[-2:]).argmax(1)) - 0.1 * logits.log_softmax(1).mean()
        strong, warp = affine_strong_view(image, rngs, AffineViewSettings(blur=0.0, jitter_probability=0.0))
        loss = loss + 10 * on_strong_view(divergence, weak, nearness(network(strong.double()).features), warp)
        descent.step(number, loss)
        follow(teacher, network, 0.9, buffers=True)
        if preset == "paper":
            groups = [(view.features.movedim(1, 0).flatten(1), probs.argmax(1).flatten())]
        else:
            groups = [(each.flatten(1), said.argmax(0).flatten()) for each, said in zip(view.features, view.logits)]
        for features, label in groups:
            for kind in range(C):
                if (label == kind).sum() >= 10:
                    prototypes[kind] = 0.7 * prototypes[kind] + 0.3 * features[:, label == kind].mean(1)
    assert furthest(stage.model, network) < NEAR
    assert furthest(stage.teacher.network, teacher) < NEAR
    assert furthest(statistics(stage.teacher.network), statistics(teacher)) < NEAR
    assert furthest([stage.refiners["prototypes"].prototypes], [prototypes]) < NEAR


def transported(scores, shares):
    """Sinkhorn as coded: three times classes to their shares, then pixels to 1."""
    plan = (scores / 0.05).exp().T
    plan = plan / plan.sum()
    for _ in range(3):
        plan = plan / plan.sum(1, keepdim=True) * shares[:, None]
        plan = plan / plan.sum(0, keepdim=True) / len(scores)
    return (plan * len(scores)).T


DRAWN, BANK = 16, 64


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_cpsls_steps(preset):
    """The bank, of two steps, fills and turns over. ``official`` waits for it, assigns image by image, and logits."""
    official, source, target = preset == "official", sources(), targets()
    network = toy(target, auxiliary=False)
    changes = {"preset": preset, "samples": DRAWN, "bank": BANK, "head_lr": 0.5, "head_momentum": 0.9}
    changes |= {} if official else {"distribution_momentum": 0.9}
    changes = {f"refine.self_labeling.{key}": value for key, value in changes.items()}
    stage = stage_of("cpsl", "adapt", context(network), FAST | changes)
    train(stage, source, target, double=False)

    teacher, warmed = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    descent = Descent(network, poly(1e-2, 90), 2e-4, heads=5)
    with torch.no_grad():
        means, shares = class_means(teacher, target, official, normalized=not official)
        head, copied = F.normalize(means, dim=1), F.normalize(means, dim=1)
    velocity, bank, logit_bank = torch.zeros_like(head), torch.zeros(0, 8).double(), torch.zeros(0, C).double()

    def cosines(features):
        return torch.einsum("bdhw,cd->bchw", F.normalize(features, dim=1), F.normalize(copied, dim=1)) / 0.08

    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        image, rngs = other.image, dice(number)
        with torch.no_grad():
            view = teacher(image)
            product = cosines(view.features).softmax(1) * warmed(image).logits.softmax(1)
            probs = product / product.sum(1, keepdim=True)
        mixed, label, _ = cutmix(one.image, one.label, image, up(probs, image.shape[-2:]).argmax(1), rngs)
        loss = cross_entropy(network(one.image).logits, one.label) + symmetric(network(mixed).logits, label)

        positions = uniform_positions if official else balanced_positions
        places = [positions(said.argmax(0).flatten(), DRAWN, rng) for said, rng in zip(probs, rngs, strict=True)]
        pixels = [F.normalize(m.flatten(1)[:, at].T, dim=1) for m, at in zip(view.features, places, strict=True)]
        logits = [F.normalize(m.flatten(1)[:, at].T, dim=1) for m, at in zip(view.logits, places, strict=True)]
        head.requires_grad_(True)
        unit, assigned = F.normalize(head, dim=1), []
        with torch.no_grad():
            if not official:
                assigned = [transported(torch.cat([bank, *pixels]) @ unit.T, shares)[-2 * DRAWN :]]
            for rows, logit_rows in zip(pixels, logits, strict=True):
                if official:
                    full = len(bank) == BANK
                    by_features = torch.cat([bank, rows] if full else [rows]) @ unit.T
                    by_logits = torch.cat([logit_bank, logit_rows] if full else [logit_rows])
                    plans = [transported(scores, shares)[-DRAWN:] for scores in (by_features, by_logits)]
                    assigned.append(plans[0] + plans[1])
                bank = torch.cat([bank, rows])[-BANK:]
                logit_bank = torch.cat([logit_bank, logit_rows])[-BANK:]
        said = (torch.cat(pixels) @ unit.T / 0.08).log_softmax(1)
        (gradient,) = torch.autograd.grad(-0.1 * (torch.cat(assigned) * said).sum(1).mean(), head)

        strong, warp = affine_strong_view(image, rngs)
        moved = network(strong.double())
        if official:
            regular = on_strong_view(divergence, cosines(view.features), cosines(moved.features), warp)
        else:
            both = lambda p, q: divergence(p, q) + divergence(q, p)  # noqa: E731
            regular = on_strong_view(both, view.logits, moved.logits, warp)
        descent.step(number, loss + 5 * regular)
        with torch.no_grad():
            velocity = 0.9 * velocity + gradient
            head = head - poly(0.5, 90)(number) * velocity
            copied = 0.9 * copied + 0.1 * head
            if not official:
                counts = torch.stack([said.argmax(0).flatten().bincount(minlength=C) for said in probs])
                shares = 0.9 * shares + 0.1 * (counts / counts.sum(1, keepdim=True)).mean(0)
        follow(teacher, network, 0.9, buffers=True)
    refiner = stage.refiners["self_labeling"]
    oldest = refiner.bank.oldest
    kept = torch.cat([refiner.bank.content[oldest:], refiner.bank.content[:oldest]])
    found = [refiner.head, refiner.head_copy, refiner.distribution, kept]
    assert furthest(stage.model, network) < NEAR_SINGLE
    assert furthest(stage.teacher.network, teacher) < NEAR_SINGLE
    assert furthest(found, [head, copied, shares, bank]) < NEAR_SINGLE
