"""PRN and IR2F: labels that something learned makes. Both are rebuilt; the references are of our notes on them."""

import copy

import torch
import torch.nn.functional as F

from papers.steps import (
    NEAR,
    NEAR_SINGLE,
    STEPS,
    Descent,
    class_mixed,
    context,
    cross_entropy,
    dice,
    follow,
    furthest,
    measure,
    ramp,
    shrunk,
    sources,
    stage_of,
    statistics,
    still,
    swapped,
    targets,
    toy,
    train,
    up,
)
from segrefinery.data.augment import strong_view
from segrefinery.refine.contrastive import sample_anchors

FAST = {"steps": 100, "optimizer.lr": 1e-2, "teacher.decay": 0.7}
WARM = 2


def rate(number):
    return 1e-2 * (1 - number / 100)


def test_prns_steps():
    """The network learns on the teacher's features and spoiled logits of the source, mends labels once it is warm, and
    pixels that it doubts are neither learned nor contrasted. One optimizer step for it and the student."""
    source, target = sources(), targets()
    network = toy(target, auxiliary=False)
    mending = {"warmup": WARM, "width": 16, "dropout": 0.0, "strength": (0.1, 0.3), "residual": True}
    contrasting = {"warmup": WARM, "min_pixels": 5, "samples": 64, "samples_per_class": 10, "width": 16}
    # by SGD, for in float32 Adam makes much of rounding
    changes = {"optimizer.name": "sgd", "optimizer.warmup": 0, "refine.pixel_contrast": contrasting}
    stage = stage_of("prn", "adapt", context(network), FAST | changes | {"refine.refinement_network": mending})
    decoder = copy.deepcopy(stage.refiners["refinement_network"].decoder).double()
    projection = copy.deepcopy(stage.refiners["pixel_contrast"].projection).double()
    train(stage, source, target, double=False)

    def mend(view, logits):
        levels = [up(level(given), logits.shape[-2:]) for level, given in zip(decoder.levels, view.levels, strict=True)]
        mixed = decoder.mix(torch.cat([*levels, decoder.opinion(logits)], 1))
        return logits + decoder.classes(mixed), decoder.noise(mixed)[:, 0]

    teacher = copy.deepcopy(network)
    descent = Descent(network, rate, 0.01, beside=[*decoder.parameters(), *projection.parameters()])
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        if number:
            follow(teacher, network, ramp(number))
        image, rngs, size = other.image, dice(number), other.image.shape[-2:]
        with torch.no_grad():
            view = teacher(image)
            logits, kept = view.logits, torch.ones(2, 8, 12).double()
            if number >= WARM:
                decoder.eval()
                logits, doubt = mend(view, view.logits)
                decoder.train()
                kept = (doubt.sigmoid() <= 0.5).double()
            kept = shrunk(kept, size)
            label = up(logits.softmax(1), size).argmax(1).masked_fill(kept == 0, 255)
        mixed, mixed_label, weight, pasted = class_mixed(one, image, label, kept, rngs)
        on_source, on_mixed = network(one.image), network(strong_view(mixed, rngs))
        loss = cross_entropy(on_source.logits, one.label) + cross_entropy(on_mixed.logits, mixed_label, weight)

        with torch.no_grad():
            clean = teacher(one.image)
            share = 0.1 + 0.2 * torch.rand((), generator=rngs[0]).item()
            styles = view.logits[[int(torch.randint(2, (), generator=rng)) for rng in rngs]]
            spoiled = torch.from_numpy(swapped(clean.logits.numpy(), styles.numpy(), share))
        mended, doubt = mend(clean, spoiled)
        known = one.label != 255
        wrong = (up(spoiled, size).argmax(1) != one.label) & known
        balance = ((known.sum() - wrong.sum()) / wrong.sum().clamp(min=1)).clamp(1, 10)
        doubts = up(doubt[:, None], size)[:, 0][known]
        loss = loss + cross_entropy(mended, one.label)
        loss = loss + F.binary_cross_entropy_with_logits(doubts, wrong[known].double(), pos_weight=balance)
        if number >= WARM:
            trusted = mixed_label.masked_fill(pasted | (weight <= 0), 255)
            domains = ((on_source, one.label), (on_mixed, trusted))
            loss = loss + 0.1 * contrast([pool(projection, *domain) for domain in domains], rngs)
        descent.step(number, loss)
    assert furthest(stage.model, network) < NEAR_SINGLE
    assert furthest(stage.refiners["refinement_network"].decoder, decoder) < NEAR_SINGLE
    assert furthest(stage.refiners["pixel_contrast"].projection, projection) < NEAR_SINGLE


def pool(projection, prediction, label):
    """A domain's embeddings, labels and mistakes, on the finest level's grid; one row of each an image."""
    size = prediction.levels[0].shape[-2:]
    embedding = projection.layers(torch.cat([up(level, size) for level in prediction.levels], 1))
    label = shrunk(label, size).long()
    wrong = up(prediction.logits, size).argmax(1) != label
    return embedding.flatten(2).mT, label.flatten(1), wrong.flatten(1)


def contrast(domains, rngs):
    """InfoNCE as it is printed, pair by pair."""
    embeddings, labels, wrong = ([row for domain in domains for row in domain[part]] for part in range(3))
    chosen = sample_anchors(labels, wrong, rngs, 5, 64, 10)
    vectors = F.normalize(torch.cat([each[at] for each, at in zip(embeddings, chosen, strict=True)]), dim=1)
    label = torch.cat([each[at] for each, at in zip(labels, chosen, strict=True)])
    alike, losses = (vectors @ vectors.T / 0.1).exp(), []
    for anchor in range(len(label)):
        others = alike[anchor][label != label[anchor]].sum()
        pairs = [each for each in range(len(label)) if each != anchor and label[each] == label[anchor]]
        if pairs:
            losses.append(-(alike[anchor, pairs] / (alike[anchor, pairs] + others)).log().mean())
    return torch.stack(losses).mean()


def test_ir2fs_steps_and_prediction():
    """The mixture labels the target, with a function that follows the trained one at the teacher's pace; it learns the
    source and the mixed image at random points beside each classifier's own loss, and is what is shipped. Batch norm
    follows the target."""
    source, target = sources(), targets()
    network = toy(target)
    changes = {"optimizer.warmup": 0, "refine.confidence_share.threshold": 0.21}
    changes |= {"refine.implicit_rectification.queries": 64, "refine.implicit_rectification.hidden": 16}
    stage = stage_of("ir2f", "adapt", context(network), FAST | changes)
    rectifier = stage.refiners["implicit_rectification"]
    with torch.no_grad():  # as a stage before would leave it
        torch.manual_seed(3)
        rectifier.function.psi[-1].weight.normal_(std=0.5)
    function = copy.deepcopy(rectifier.function).double()
    train(stage, source, target)

    measure(network, target)
    average, teacher = copy.deepcopy(function), copy.deepcopy(network).eval()
    descent = Descent(network, rate, 0.01, beside=function.parameters(), adam=True)
    for number, (one, other) in enumerate(zip(source, target, strict=True)):
        if number:
            follow(teacher, network, ramp(number), buffers=True)
            follow(average, function, ramp(number))
        image, rngs, size = other.image, dice(number), other.image.shape[-2:]
        with torch.no_grad():
            probs = mixture(average, teacher(image).learners, centres(8, 12)).exp().unflatten(-1, (8, 12))
            share = (probs.amax(1) > 0.21).double().mean((1, 2))[:, None, None].expand(2, *size)
        mixed, label, weight, _ = class_mixed(one, image, up(probs, size).argmax(1), share, rngs)
        loss = torch.zeros(()).double()
        with still(network):
            on_source = network(one.image)
        on_mixed = network(strong_view(mixed, rngs))
        for seen, taught, trusted in ((on_source, one.label, torch.ones(2, *size)), (on_mixed, label, weight)):
            loss = loss + cross_entropy(seen.logits, taught, trusted)
            loss = loss + 0.5 * cross_entropy(seen.aux_logits, taught, trusted)
            points = 2 * torch.stack([torch.rand(64, 2, generator=rng) for rng in rngs]).double() - 1
            here, factor = under(taught, points), under(trusted, points)
            known = here != 255
            log_probs = mixture(function, seen.learners, points).gather(1, here.masked_fill(~known, 0)[:, None])[:, 0]
            loss = loss - (factor * log_probs)[known].sum() / known.sum()
        descent.step(number, loss)
    follow(average, function, ramp(STEPS))
    assert furthest(stage.model, network) < NEAR
    assert furthest(rectifier.function, function) < 1e-4  # Adam divides by what may be next to nothing
    assert furthest(rectifier.average, average) < 1e-4
    assert furthest(statistics(stage.model), statistics(network)) < NEAR

    stage.eval()
    with torch.no_grad():
        shown = stage.predictor().eval().predict(target[0].image, (64, 96))
        wanted = mixture(function, network.eval()(target[0].image).learners, centres(64, 96)).unflatten(-1, (64, 96))
    torch.testing.assert_close(shown, wanted, atol=1e-5, rtol=1e-5)


def centres(height, width):
    """(y, x) of the cells' centres, two images of them."""
    sides = [-1 + (2 * torch.arange(n).double() + 1) / n for n in (height, width)]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).reshape(1, -1, 2).expand(2, -1, -1)


def under(pixels, points):
    """The pixel that each point lies in."""
    sides = torch.tensor(pixels.shape[-2:])
    rows, columns = ((points + 1) / 2 * sides).floor().clamp(min=0).minimum(sides - 1).long().unbind(-1)
    return torch.stack([one[y, x] for one, y, x in zip(pixels, rows, columns, strict=True)])


def mixture(function, learners, points):
    """log sum_k w_k p_k at points: four cells of each learner's own grid, blended; logits sampled bilinearly."""
    encoded = [read(reader, one.latent, points) for reader, one in zip(function.phi, learners, strict=True)]
    log_weights = function.psi(torch.cat(encoded, -1)).log_softmax(-1)
    flipped = points.flip(-1)[:, None]
    sampled = [
        F.grid_sample(one.logits, flipped, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]
        for one in learners
    ]
    log_probs = torch.stack([each.log_softmax(1) for each in sampled], -1)
    return (log_weights[:, None] + log_probs).logsumexp(-1)


def read(reader, latent, points):
    """e_k: phi of the latent at each of the cells around a point and of the point's place in it, by area."""
    sides = torch.tensor(latent.shape[-2:])
    place = (points + 1) / 2 * sides - 0.5
    total = torch.zeros(())
    for down in (0, 1):
        for right in (0, 1):
            corner = place.floor() + torch.tensor([down, right])
            area = (1 - (place - corner).abs()).prod(-1, keepdim=True)
            cell = corner.clamp(min=0).minimum(sides - 1)
            rows, columns = cell.long().unbind(-1)
            codes = torch.stack([one[:, y, x].T for one, y, x in zip(latent, rows, columns, strict=True)])
            relative = (points - (-1 + (2 * cell + 1) / sides)) * sides
            weight = reader.latent.weight[:, :, 0, 0]
            hidden = (codes @ weight.T + reader.latent.bias + relative @ reader.offset.weight.T).relu()
            total = total + area * reader.second(hidden)
    return total
