"""AdaptSegNet, ADVENT, UncerDA's rounds and ProDA's warm-up; DAFormer with MIC; HRDA."""

import copy

import pytest
import torch
import torch.nn.functional as F

from papers.steps import (
    NEAR,
    NEAR_SINGLE,
    SIZE,
    STEPS,
    THINGS,
    C,
    Descent,
    class_mixed,
    context,
    cross_entropy,
    dice,
    follow,
    furthest,
    poly,
    ramp,
    shrunk,
    sources,
    stage_of,
    statistics,
    swapped,
    targets,
    toy,
    train,
    up,
)
from segrefinery.data.augment import strong_view
from segrefinery.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from segrefinery.models.hrda import HRDA
from segrefinery.models.settings import HRDASettings
from segrefinery.stages.base import Passes

FAST = {"steps": 100, "optimizer.lr": 1e-2, "optimizer.warmup": 3, "teacher.decay": 0.7}


@pytest.mark.parametrize("method", ["adaptsegnet", "advent", "uncerda", "proda"])
def test_adversarial_steps(method):
    """train_gta2cityscapes_multi.py: the segmenter fools the discriminators as they were, on maps of the image's size;
    they learn from its outputs of before its step. ADVENT's maps of self-information; ProDA's single LS-GAN. UncerDA
    shows source images in the target's style among the target's, and their labels teach."""
    source, target = sources(1, (64, 96)), targets(1, (64, 64))
    least_squares = method == "proda"
    network = toy(target, auxiliary=not least_squares)
    for norm in (network.fine_norm, network.coarse_norm):  # frozen scale and shift, moving statistics
        norm.requires_grad_(False)
    weights = {"main": 1.0, "aux": 0.0 if least_squares else 0.1}
    fooling = {"main": 0.1, "aux": 0.0 if least_squares else 0.02}
    changes = {"optimizer.lr": 2.5e-2, "optimizer.horizon": 250, "adversarial": fooling, "discriminator_width": 4}
    changes |= {"discriminator_optimizer.lr": 1e-3, "discriminator_optimizer.horizon": 250}
    changes |= {"target_guided": None, "translation.fraction": 0.05} if method == "uncerda" else {}
    stage = stage_of(method, "warmup" if least_squares else "align", context(network), changes)
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

    descent = Descent(network, poly(2.5e-2, 250), 2e-4 if least_squares else 5e-4)
    judging = torch.optim.Adam(judges.parameters(), lr=1e-3, betas=(0.9, 0.99))
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        translated = method == "uncerda" and torch.rand((), generator=dice(number)[0]) < 0.5
        on_source = network(one.image)
        on_target = network(in_style(one.image, other.image) if translated else other.image)
        pairs = {"main": (on_source.logits, on_target.logits), "aux": (on_source.aux_logits, on_target.aux_logits)}
        loss, judged = torch.zeros(()).double(), torch.zeros(()).double()
        for level, (theirs, ours) in pairs.items():
            if theirs is None or ours is None:
                continue
            loss, judge = loss + weights[level] * cross_entropy(theirs, one.label), judges[level]
            loss = loss + fooling[level] * call(judge(seen(ours, (64, 64))), 0.0)
            if translated:
                loss = loss + weights[level] * cross_entropy(ours, shrunk(one.label, (64, 64)).long())
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


def in_style(content, style):
    """FDA on raw pixels, at the target's size."""
    mean, std = (torch.tensor(each).double()[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    content = F.interpolate(content, style.shape[-2:], mode="bilinear", antialias=True)
    colours = [(image * std + mean).clamp(0, 1).numpy() for image in (content, style)]  # a toy's leave the range
    raw = swapped(*colours, 0.05)
    return (torch.from_numpy(raw).clamp(0, 1) - mean) / std


def test_uncerdas_rounds_draw_what_the_target_finds_uncertain(tmp_path):
    """Evenly in the first round. Then by eq. 3 to 5 with 1 - balance for lambda, for the classes that eq. 1 finds the
    most uncertain in the network that the round before left."""
    target, rng = targets(), torch.Generator().manual_seed(0)
    counts = torch.randint(1, 50, (20, C), generator=rng) ** 3 * (torch.rand(20, C, generator=rng) > 0.6)
    network, handed_on = toy(target), {}
    for number in (1, 2):
        stage = stage_of("uncerda", "align", context(network, handed_on=handed_on), {"target_guided.uncertain": 2})
        stage.eval().prepare(Passes([], target, tmp_path))
        handed_on = {name: module.state_dict() for name, module in stage.handed_on().items()}
        probabilities = stage.source_probabilities(counts)
        assert (probabilities is None) == (number == 1)
    with torch.no_grad():
        probs = torch.cat([up(network.eval()(batch.image).logits, SIZE).softmax(1) for batch in target])
    entropy, said = -(probs * probs.log()).sum(1) / torch.tensor(C).log(), probs.argmax(1)
    chosen = torch.stack([entropy[said == kind].mean() for kind in range(C)]).topk(2).indices
    pixels = counts.double()
    of_class = pixels.sum(0) ** (0.1 - 1)
    share = torch.where(pixels > 0, pixels**0.1, 0)[:, chosen]
    score = (share / share.sum(1, keepdim=True) * (of_class / of_class.sum())[chosen]).sum(1).nan_to_num()
    wanted = (0.1 + torch.sigmoid(80 * (score - 0.02))).clamp(max=1)
    assert wanted.max() > 1.5 * wanted.min()
    torch.testing.assert_close(probabilities, wanted / wanted.sum())


def warmed_up(number):
    """DAFormer's poly10warm: 40,000 steps and 1500 are 100 and 3 here."""
    left = (1 - number / 3) * (1 - 1e-6) if number < 3 else 0.0
    return 1e-2 * (1 - number / 100) * (1 - left)


def test_daformers_and_mics_steps():
    """dacs.py, in its order: average of parameters, source, feature distance, labels in the teacher's train mode,
    ClassMix, colours of the mixed image alone, masked target in colours of its own; one AdamW step."""
    source, target = sources(), targets()
    network = toy(target, auxiliary=False)
    changes = {"refine.confidence_share.threshold": 0.25, "refine.feature_distance.weight": 0.5}
    stage = stage_of("mic", "adapt", context(network), FAST | changes | {"refine.masked_consistency.block": 8})
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
        loss = loss + cross_entropy(network(strong_view(mixed, rngs)).logits, mixed_label, weight)
        image = strong_view(image, rngs)
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
    changes = {"refine.confidence_share.threshold": 0.25, "refine.feature_distance.weight": 0.5}
    stage = stage_of("hrda", "adapt", context(network), FAST | changes)
    boxes, draw = [], HRDA._draw_box
    monkeypatch.setattr(HRDA, "_draw_box", lambda *given: boxes.append(draw(*given)) or boxes[-1])
    train(stage, source, target)

    network.train()
    teacher, imagenet = copy.deepcopy(network), copy.deepcopy(network).eval()
    descent, drawn = Descent(network, warmed_up, 0.01, adam=True), iter(boxes)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        if number:
            follow(teacher, network, ramp(number))
        with torch.no_grad():
            probs = fused(teacher, other.image)[0].softmax(1)
            share = (probs.amax(1) > 0.25).double().mean((1, 2))[:, None, None].expand(2, 64, 64)
            label = up(probs, (64, 64)).argmax(1)
            wanted = imagenet.segmenter(half(one.image)).levels[-1]
        rngs = dice(number)
        mixed, mixed_label, weight, _ = class_mixed(one, other.image, label, share, rngs)
        mixed = strong_view(mixed, rngs)
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
