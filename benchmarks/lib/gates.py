"""What each method could gain on a task, measured on a source-only model before the method is run.

A gate is a function of the ``Ground``: networks and data in, counts out. Pixels are those of the network's own grid,
labels are brought to it by nearest neighbour. Labels of the target are read to measure, never to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.core.resize import bilinear
from segrefinery.data.batch import LabeledBatch, MixedBatch, UnlabeledBatch
from segrefinery.data.sampling import soft_balance_probabilities
from segrefinery.data.transforms import resize_map
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, SourceStep, Step, TargetStep
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture import class_entropies, class_gains, uncertain_classes
from segrefinery.refine.entropy_mixture.refiner import EntropyMixtureSettings
from segrefinery.refine.pixel_attention.refiner import PixelAttention
from segrefinery.refine.refinement_network.refiner import RefinementNetwork
from segrefinery.refine.self_labeling.formulas import cosine_similarities, rectify
from segrefinery.refine.self_labeling.refiner import SelfLabeling
from segrefinery.stages.optimizers import OptimizerSettings, refined_optimizers

Scores = dict[str, ConfusionMatrix]
"""What is compared -> its counts, on the same pixels for all."""
Pairs = Callable[[int], Iterator[tuple[LabeledBatch, UnlabeledBatch]]]


@dataclass
class Ground:
    """What the gates stand on; the iterables may be walked again.

    Attributes:
        teacher: the source-only network; nothing trains it.
        validation, test: labelled images, whole: of the source but not trained on, and of the target.
        target: the target's training images, whole, without labels.
        source_pairs, taught_pairs: number of steps -> that many pairs of an augmented labelled batch and a target
            batch; the labelled images are the source's, or for ``taught_pairs`` the target's own.
    """

    teacher: Teacher
    space: LabelSpace
    validation: Iterable[LabeledBatch]
    target: Iterable[UnlabeledBatch]
    test: Iterable[LabeledBatch]
    source_pairs: Pairs
    taught_pairs: Pairs

    @torch.no_grad()
    def seen(self, batches: Iterable[LabeledBatch]) -> Iterator[tuple[TeacherView, Tensor]]:
        """What the teacher sees of each batch, with the labels B x h x w on its grid."""
        for batch in batches:
            view = self.teacher.view(batch.image, batch.index)
            size = (view.logits.shape[-2], view.logits.shape[-1])
            yield view, torch.stack([resize_map(label, size) for label in batch.label])

    def score(self, batches: Iterable[LabeledBatch], say: Callable[[TeacherView], dict[str, Tensor]]) -> Scores:
        """Counts of each labelling that ``say`` gives for a view; a pixel that one of them leaves out (255) counts for
        none."""
        scores: Scores = {}
        for view, label in self.seen(batches):
            said = say(view)
            for labels in said.values():
                label = label.masked_fill(labels == IGNORE, IGNORE)
            for name, labels in said.items():
                scores.setdefault(name, ConfusionMatrix(self.space.num_classes)).update(labels, label)
        return scores


# -- IR2F --------------------------------------------------------------------------------------------------------------


def two_classifiers(ground: Ground, batches: Iterable[LabeledBatch]) -> tuple[Scores, float]:
    """Both classifiers, their mean, and a choice between them that is always right where one of them is; and the share
    of the labelled pixels on which they disagree.

    Raises:
        SegRefineryError: the network has one classifier.
    """
    names = ("first", "second", "mean of both", "perfect choice")
    scores = {name: ConfusionMatrix(ground.space.num_classes) for name in names}
    differ = total = 0
    for view, label in ground.seen(batches):
        if view.aux_logits is None:
            raise SegRefineryError("the network has one classifier; the gate compares two (model.options.auxiliary)")
        probs = view.probs
        others = bilinear(view.aux_logits.float(), probs.shape[-2:]).softmax(dim=1)
        first, second = probs.argmax(dim=1), others.argmax(dim=1)
        perfect = torch.where(second == label, second, first)
        for name, labels in zip(names, (first, second, (probs + others).argmax(dim=1), perfect), strict=True):
            scores[name].update(labels, label)
        differ += int(((first != second) & (label != IGNORE)).sum())
        total += int((label != IGNORE).sum())
    return scores, differ / max(total, 1)


# -- UncerDA -----------------------------------------------------------------------------------------------------------


def guided_sampling(
    ground: Ground,
    pixel_counts: Tensor,
    midpoints: dict[str, float | Literal["median"]],
    uncertain: int,
    balance: float = 0.9,
    steepness: float = 80.0,
) -> tuple[list[int], dict[str, Tensor]]:
    """The classes that the target finds most uncertain, and each way of sampling -> gain by class.

    Args:
        pixel_counts: N x C of the source.
        midpoints: name -> mu of eq. 5; each is tried with the uncertain classes and with all.
        uncertain: how many classes count as uncertain.
        balance, steepness: of eq. 3 and 5.
    """
    worst = uncertain_classes(class_entropies(ground.teacher, ground.target, upsample=False), uncertain)
    gains = {}
    for name, midpoint in midpoints.items():
        for what, classes in (("balanced", None), ("guided", worst)):
            probabilities = soft_balance_probabilities(pixel_counts, classes, balance, steepness, midpoint)
            gains[f"{what}, {name}"] = class_gains(pixel_counts, probabilities)
    return worst, gains


@torch.no_grad()
def equal_coverage(ground: Ground, settings: EntropyMixtureSettings) -> dict[str, tuple[float, float]]:
    """Ways to choose which labels to keep -> coverage and precision. All but the data set's mixture keep as many as the
    images' mixtures do: by one entropy for all, and by one for each class, of which as many are kept as the mixtures
    keep."""
    space = ground.space
    whole = settings.model_copy(update={"gmm_scope": "dataset"})
    refiners = [own.build(ground.teacher.network, space) for own in (settings, whole)]
    for refiner in refiners:
        refiner.fit(ground.teacher, (), ground.target)
    parts: list[tuple[Tensor, ...]] = []
    for view, label in ground.seen(ground.test):
        start = PseudoLabels.from_view(view)
        kept = [refiner(view, start).weight > 0.5 for refiner in refiners]
        known = label != IGNORE
        guess = start.labels
        parts.append(tuple(one[known] for one in (normalized_entropy(start.probs), guess, guess == label, *kept)))
    entropy, guess, right, images, dataset = (torch.cat(part) for part in zip(*parts, strict=True))
    by_class = torch.zeros_like(images)
    for each in range(space.num_classes):
        own = (guess == each).nonzero()[:, 0]
        by_class[own[lowest(entropy[own], int(images[own].sum()))]] = True
    one = torch.zeros_like(images)
    one[lowest(entropy, int(images.sum()))] = True
    chosen = {
        "all": torch.ones_like(images),
        "mixtures of the images": images,
        "one threshold, as many": one,
        "a threshold a class, as many of each": by_class,
        "mixtures of the data set": dataset,
    }
    return {
        name: (float(kept.double().mean()), float(right[kept].double().mean()) if kept.any() else float("nan"))
        for name, kept in chosen.items()
    }


def lowest(values: Tensor, count: int) -> Tensor:
    """The places of the ``count`` lowest values."""
    return values.topk(count, largest=False).indices


# -- SAM ---------------------------------------------------------------------------------------------------------------


def attended(ground: Ground, refiner: PixelAttention, batches: Iterable[LabeledBatch]) -> Scores:
    """The prediction beside its attended form, alone and added to it."""

    def say(view: TeacherView) -> dict[str, Tensor]:
        pulled = refiner.attention["logits"](view.logits)
        logits = {"prediction": view.logits, "attended": pulled, "prediction + attended": view.logits + pulled}
        return {name: one.argmax(dim=1) for name, one in logits.items()}

    return ground.score(batches, say)


# -- PRN ---------------------------------------------------------------------------------------------------------------


def refined(ground: Ground, refiner: RefinementNetwork, batches: Iterable[LabeledBatch]) -> Scores:
    """The teacher's labels beside those that the refinement network makes of them."""
    return ground.score(
        batches,
        lambda view: {
            "teacher": view.logits.argmax(dim=1),
            "refined": refiner.examine(view).logits.argmax(dim=1),
        },
    )


# -- CPSL --------------------------------------------------------------------------------------------------------------


def clusters(ground: Ground, refiner: SelfLabeling) -> tuple[Scores, Scores]:
    """Teacher, clusters and rectified labels on all pixels of the target, and where teacher and clusters differ."""

    def say(view: TeacherView) -> dict[str, Tensor]:
        temperature = refiner.settings.temperature
        probs = (cosine_similarities(view.features, refiner.head_copy) / temperature).softmax(dim=1)
        labels = {"teacher": view.probs, "clusters": probs, "rectified": rectify(probs, view.probs)}
        return {name: one.argmax(dim=1) for name, one in labels.items()}

    def where_they_differ(view: TeacherView) -> dict[str, Tensor]:
        said = say(view)
        same = said["teacher"] == said["clusters"]
        return {name: labels.masked_fill(same, IGNORE) for name, labels in said.items()}

    return ground.score(ground.test, say), ground.score(ground.test, where_they_differ)


# -- training ----------------------------------------------------------------------------------------------------------


def train(
    ground: Ground,
    refiner: Refiner,
    pairs: Iterable[tuple[LabeledBatch, UnlabeledBatch]],
    optimizer: OptimizerSettings,
    steps: int,
) -> None:
    """Train a refiner by its own losses beside a network that stays as it is.

    Args:
        pairs: a labelled and a target batch for each step.
        steps: the length of the schedule.
    """
    teacher = ground.teacher
    optimizers = refined_optimizers(teacher.network, {"refiner": refiner}, optimizer, steps)
    refiner.train()
    for number, (source, target) in enumerate(pairs):
        view = teacher.view(target.image, target.index)
        with torch.no_grad():
            labels = refiner(view, PseudoLabels.from_view(view))
            halves = SourceStep(source, teacher(source.image)), unmixed(teacher, view, labels)
        random = [generator("gate", number, place) for place in range(len(source))]
        step = Step(number, teacher.network, *halves, generators=random)
        for trained in optimizers.values():
            for group in trained.optimizer.param_groups:
                group["lr"] = group["base_lr"] * trained.rate(number)
            trained.optimizer.zero_grad()
        torch.stack(list(refiner.losses(step).values())).sum().backward()
        for trained in optimizers.values():
            trained.optimizer.step()
        with torch.no_grad():
            refiner.remember(step)
            refiner.after_step(step)
    refiner.eval()


def unmixed(teacher: Teacher, view: TeacherView, labels: PseudoLabels) -> TargetStep:
    """The target's half of a step in which nothing is pasted."""
    whole = labels.resize((view.image.shape[-2], view.image.shape[-1]))
    batch = MixedBatch(view.image, whole.labels, whole.weight, torch.zeros_like(whole.weight, dtype=torch.bool))
    return TargetStep(teacher, view, labels, batch, view)
