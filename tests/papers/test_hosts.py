"""AdaptSegNet, ADVENT and ProDA's warm-up; DAFormer with MIC; HRDA."""

import copy

import pytest
import torch
import torch.nn.functional as F

from papers.steps import (
    NEAR,
    NEAR_SINGLE,
    STEPS,
    THINGS,
    Descent,
    built,
    class_mixed,
    context,
    cross_entropy,
    dice,
    follow,
    furthest,
    poly,
    sources,
    statistics,
    targets,
    toy,
    train,
    up,
)
from segrefinery.models.hrda import HRDA
from segrefinery.models.settings import HRDASettings
from segrefinery.stages.base import Passes
from segrefinery.stages.kinds import AdversarialSettings, SelfTrainingSettings

SGD = {"name": "sgd", "lr": 2.5e-2, "weight_decay": 5e-4, "momentum": 0.9, "power": 0.9, "horizon": 250}
ADAM = {"name": "adam", "lr": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.99), "power": 0.9, "horizon": 250}


@pytest.mark.parametrize("method", ["adaptsegnet", "advent", "proda"])
def test_adversarial_steps(method):
    """train_gta2cityscapes_multi.py: the segmenter fools the discriminators as they were, on maps of the image's size;
    they learn from its outputs of before its step. ADVENT's maps of self-information; ProDA's single LS-GAN."""
    source, target = sources(1, (64, 96)), targets(1, (64, 64))
    least_squares = method == "proda"
    network = toy(target, auxiliary=not least_squares)
    for norm in (network.fine_norm, network.coarse_norm):  # frozen scale and shift, moving statistics
        norm.requires_grad_(False)
    weights = {"main": 1.0, "aux": 0.0 if least_squares else 0.1}
    fooling = {"main": 0.1, "aux": 0.0 if least_squares else 0.02}
    stage = built(
        AdversarialSettings, context(network), steps=100, optimizer=SGD, discriminator_optimizer=ADAM,
        discriminator_width=4, weights=weights,
        adversarial=fooling, disc_input="entropy" if method == "advent" else "softmax",
        objective="least_squares" if least_squares else "vanilla",
    )  # fmt: skip
    stage.prepare(Passes([], target, None))  # pyright: ignore[reportArgumentType]
    judges = copy.deepcopy(stage.discriminators).double()
    train(stage, source, target, double=False, prepare=False)

    def seen(logits, size):
        probs = up(logits, size).softmax(1)
        return -probs * torch.log2(probs + 1e-30) / torch.log2(torch.tensor(5.0)) if method == "advent" else probs

    def call(scores, domain):
        if least_squares:
            return ((scores - domain) ** 2).mean()
        return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, domain))

    descent = Descent(network, poly(2.5e-2, 250), 5e-4)
    judging = torch.optim.Adam(judges.parameters(), lr=1e-3, betas=(0.9, 0.99))
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        on_source, on_target = network(one.image), network(other.image)
        pairs = {"main": (on_source.logits, on_target.logits), "aux": (on_source.aux_logits, on_target.aux_logits)}
        loss, judged = torch.zeros(()).double(), torch.zeros(()).double()
        for level, (theirs, ours) in pairs.items():
            if theirs is None or ours is None:
                continue
            loss, judge = loss + weights[level] * cross_entropy(theirs, one.label), judges[level]
            loss = loss + fooling[level] * call(judge(seen(ours, (64, 64))), 0.0)
            judged = judged + 0.5 * call(judge(seen(theirs.detach(), (64, 96))), 0.0)
            judged = judged + 0.5 * call(judge(seen(ours.detach(), (64, 64))), 1.0)
        judging.param_groups[0]["lr"] = poly(1e-3, 250)(number)
        gradients = torch.autograd.grad(judged, list(judges.parameters()))
        descent.step(number, loss)
        for parameter, gradient in zip(judges.parameters(), gradients, strict=True):
            parameter.grad = gradient
        judging.step()
    assert furthest(stage.model, network) < NEAR_SINGLE
    assert furthest(statistics(stage.model), statistics(network)) < NEAR_SINGLE  # one look at each image
    assert furthest(stage.discriminators, judges) < 1e-3  # Adam divides by what may be next to nothing


def warmed_up(number):
    """DAFormer's poly10warm: 40,000 steps and 1500 are 100 and 3 here."""
    left = (1 - number / 3) * (1 - 1e-6) if number < 3 else 0.0
    return 1e-2 * (1 - number / 100) * (1 - left)


def ramp(number, decay=0.7):
    return min(1 - 1 / (number + 1), decay)


def test_daformers_and_mics_steps():
    """dacs.py, in its order: average of parameters, source, feature distance, labels in the teacher's train mode,
    ClassMix, masked target; one AdamW step."""
    source, target = sources(), targets()
    network = toy(target)
    stage = built(
        SelfTrainingSettings, context(network), steps=100, strong=None, statistics="both",
        teacher={"decay": 0.7, "mode": "train"},
        weights={"main": 1, "aux": 0},
        optimizer={"name": "adamw", "lr": 1e-2, "weight_decay": 0.01, "warmup": 3, "warmup_ratio": 1e-6},
        refine={
            "confidence_share": {"threshold": 0.25}, "feature_distance": {"weight": 0.5},
            "masked_consistency": {"block": 8, "ratio": 0.7, "strong": False},
        },
    )  # fmt: skip
    train(stage, source, target)

    teacher, imagenet = copy.deepcopy(network), copy.deepcopy(network).eval()
    descent = Descent(network, warmed_up, 0.01, adam=True)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        if number:
            follow(teacher, network, ramp(number))
        rngs, image = dice(number), other.image
        with torch.no_grad():
            probs = teacher(image).logits.softmax(1)
            share = (probs.amax(1) > 0.25).double().mean((1, 2))[:, None, None].expand(2, *image.shape[-2:])
            label, wanted = up(probs, image.shape[-2:]).argmax(1), imagenet(one.image).levels[-1]
        mixed, mixed_label, weight, _ = class_mixed(one, image, label, share, rngs)
        on_source = network(one.image)
        loss = cross_entropy(on_source.logits, one.label)
        loss = loss + 0.5 * on_things((on_source.levels[-1] - wanted).norm(dim=1), one.label, 8)
        loss = loss + cross_entropy(network(mixed).logits, mixed_label, weight)
        kept = torch.stack([torch.rand(1, image.shape[-2] // 8, image.shape[-1] // 8, generator=rng) for rng in rngs])
        shown = F.interpolate((kept > 0.7).double(), image.shape[-2:], mode="nearest")
        descent.step(number, loss + cross_entropy(network(image * shown).logits, label, share))
    follow(teacher, network, ramp(STEPS))
    assert furthest(stage.model, network) < NEAR
    assert furthest(stage.teacher.network, teacher) < NEAR


def on_things(distance, label, stride):
    """Mean over the cells of which one thing class covers three quarters."""
    shares = [F.avg_pool2d((label == thing).double()[:, None], stride)[:, 0] for thing in THINGS]
    cells = torch.stack(shares).amax(0) >= 0.75
    return (distance * cells).sum() / cells.sum().clamp(min=1)


def test_hrdas_steps(monkeypatch):
    """hrda_head.py: fused = up2((1 - a) context) + up2(a) detail, a being 0 outside the box; 0.9 and 0.1 of the losses;
    labels by the detail sliding over the crop; the feature distance on the context."""
    source, target = sources(2, (64, 64)), targets(2, (64, 64))
    network = HRDA(toy(target, auxiliary=False), HRDASettings(detail=32, divisor=8)).double()
    network.attention.dropout.p = 0.0
    stage = built(
        SelfTrainingSettings, context(network), steps=100, strong=None, statistics="both",
        teacher={"decay": 0.7, "mode": "train"},
        weights={"main": 0.9, "aux": 0.1}, optimizer=SGD | {"lr": 1e-2, "power": 1.0, "horizon": 100},
        refine={"confidence_share": {"threshold": 0.25}, "feature_distance": {"weight": 0.5}},
    )  # fmt: skip
    boxes, draw = [], HRDA._draw_box
    monkeypatch.setattr(HRDA, "_draw_box", lambda *given: boxes.append(draw(*given)) or boxes[-1])
    train(stage, source, target)

    network.train()
    teacher, imagenet = copy.deepcopy(network), copy.deepcopy(network).eval()
    descent, drawn = Descent(network, poly(1e-2, 100, 1.0), 5e-4), iter(boxes)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        if number:
            follow(teacher, network, ramp(number))
        with torch.no_grad():
            probs = fused(teacher, other.image)[0].softmax(1)
            share = (probs.amax(1) > 0.25).double().mean((1, 2))[:, None, None].expand(2, 64, 64)
            label = up(probs, (64, 64)).argmax(1)
            wanted = imagenet.segmenter(half(one.image)).levels[-1]
        mixed, mixed_label, weight, _ = class_mixed(one, other.image, label, share, dice(number))
        loss = torch.zeros(()).double()
        for image, taught, trusted in ((one.image, one.label, torch.ones(2, 64, 64)), (mixed, mixed_label, weight)):
            top, left, bottom, right = box = [round(64 * edge) for edge in next(drawn)]
            whole, detail, levels = fused(network, image, box)
            assert detail is not None
            inside = (slice(None), slice(top, bottom), slice(left, right))
            loss = loss + 0.9 * cross_entropy(whole, taught, trusted)
            loss = loss + 0.1 * cross_entropy(detail, taught[inside], trusted[inside])
            if image is one.image:
                loss = loss + 0.5 * on_things((levels[-1] - wanted).norm(dim=1), one.label, 16)
        descent.step(number, loss)
    assert furthest(stage.model, network) < NEAR


def half(image):
    return F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)


def fused(network, image, box=None):
    """Logits of the whole, of the detail box, and the context's levels; without a box the detail slides, 32 by 16."""
    context_view = network.segmenter(half(image))
    attention = torch.sigmoid(network.attention(context_view.levels)[0])
    padded, seen = torch.zeros(len(image), 5, 16, 16).double(), torch.zeros(16, 16).double()
    inside = torch.zeros(8, 8).double()
    corners = [(y, x) for y in (0, 16, 32) for x in (0, 16, 32)] if box is None else [tuple(box[:2])]
    detail = None
    for top, left in corners:
        detail = network.segmenter(image[..., top : top + 32, left : left + 32]).logits
        place = (..., slice(top // 4, top // 4 + 8), slice(left // 4, left // 4 + 8))
        padded[place] += detail
        seen[place[1:]] += 1
        inside[top // 8 : top // 8 + 4, left // 8 : left // 8 + 4] = 1
    attention = attention * inside
    context_part = up((1 - attention) * context_view.logits, (16, 16))
    return context_part + up(attention, (16, 16)) * padded / seen.clamp(min=1), detail, context_view.levels
