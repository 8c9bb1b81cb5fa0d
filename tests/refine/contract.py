"""What every refiner must keep. ``RefinerContract`` is run over ``CASES``: each entry of ``REFINERS`` at least
once, with settings that suit a toy network."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segrefinery.core.randomness import generator
from segrefinery.data.batch import LabeledBatch, MixedBatch, UnlabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.losses import weighted_cross_entropy
from segrefinery.models.teacher import Teacher, TeacherSettings, TeacherView
from segrefinery.refine import REFINERS, PseudoLabels, Refiner, SourceStep, Step, TargetStep
from toys import ToySegmenter, labeled, unlabeled

NAMES = ("road", "person", "car", "sky", "pole")

NARROW: dict[str, dict[str, Any]] = {
    "class_balanced": {"portion": 0.5},
    "entropy_mixture": {"min_pixels": 8, "bins": 32},
    "prototypes": {"min_pixels": 1},
    "self_labeling": {"samples": 16, "bank": 64},
    "refinement_network": {"width": 8, "warmup": 0, "norm": "group"},
    "implicit_rectification": {"queries": 64, "hidden": 8},
    "pixel_contrast": {"width": 8, "warmup": 0, "min_pixels": 2, "norm": "group"},
    "masked_consistency": {"block": 8},
    "feature_distance": {"weight": 1.0},
}
"""Settings that make a refiner act on a toy network; by default its own."""

VARIANTS: dict[str, dict[str, Any]] = {
    "confidence_threshold/running": {"classes": "running"},
    "confidence_share/official": {"preset": "official", "threshold": 0.3},
    "class_balanced/mrkld": {"kind": "mrkld"},
    "class_balanced/lrent": {"kind": "lrent"},
    "entropy_mixture/dataset": {"gmm_scope": "dataset", "soft": True},
    "prototypes/official": {"preset": "official"},
    "prototypes/chain": {"soft_labels": "chain"},
    "self_labeling/official": {"preset": "official"},
    "self_labeling/chain": {"soft_labels": "chain"},
    "implicit_rectification/mixture": {"pixel_weight": "mixture"},
    "pixel_attention/training": {"train": True},
}
"""Further settings whose state or losses differ."""

CASES = {name: NARROW.get(name, {}) for name in REFINERS}
CASES |= {case: NARROW.get(case.split("/")[0], {}) | changes for case, changes in VARIANTS.items()}

TEACH_THE_STUDENT = {
    "class_balanced/mrkld", "prototypes", "self_labeling", "implicit_rectification", "pixel_attention",
    "pixel_contrast", "masked_consistency", "feature_distance", "tether",
}  # fmt: skip
"""Refiners, or variants of them, whose losses reach the student; those of all others must not."""
ONLY_BY_VARIANT = {"class_balanced"}
LEARN = {
    "self_labeling", "refinement_network", "implicit_rectification", "pixel_attention/training", "pixel_contrast"
}  # fmt: skip
"""Those with parameters of their own that their losses train."""

FIXED_ORDER = {"refinement_network": "a learned decoder reads the class logits by fixed, randomly drawn channels"}
"""Not equivariant under class permutations, and why."""

WITHOUT_EFFECT = {
    "pixel_attention": {"weight": 0.0},
    "pixel_contrast": {"weight": 0.0},
    "masked_consistency": {"weight": 0.0},
    "feature_distance": {"weight": 0.0},
    "tether": {"weight": 0.0},
}
"""Settings under which a refiner that leaves labels alone must leave the student alone, bit for bit. The others change
labels, or, like ``refinement_network``, also see the student's network only through its teacher."""


def listed(case: str, names: set[str]) -> bool:
    """Whether a case, or the refiner it is a variant of, is among the names."""
    return case in names or (case.split("/")[0] in names)


@dataclass
class World:
    """A student, its teacher, a fitted refiner, and the batches of a few steps."""

    student: ToySegmenter
    teacher: Teacher
    refiner: Refiner
    source: LabeledBatch
    target: UnlabeledBatch

    @property
    def view(self) -> TeacherView:
        return self.teacher.view(self.target.image, self.target.index)

    def step(self, number: int = 0, labels: PseudoLabels | None = None, supervised: bool = False) -> Step:
        """What the stage would hand over; the target is learned as it is, its upper half shows the source."""
        random = [generator("contract", number, place) for place in range(len(self.source))]
        torch.manual_seed(number)
        source = SourceStep(self.source, self.student(self.source.image))
        if supervised:
            return Step(number, self.student, source, generators=random)
        view = self.view
        with torch.no_grad():
            labels = self.refiner(view, labels or PseudoLabels.from_view(view))
        pasted = torch.zeros_like(self.source.label, dtype=torch.bool)
        pasted[:, : pasted.shape[1] // 2] = True
        full = labels.resize((pasted.shape[-2], pasted.shape[-1]))
        image = torch.where(pasted[:, None], self.source.image, self.target.image)
        label = torch.where(pasted, self.source.label, full.labels)
        mixed = MixedBatch(image, label, full.weight.masked_fill(pasted, 1.0), pasted)
        target = TargetStep(self.teacher, view, labels, mixed, self.student(image))
        return Step(number, self.student, source, target, strong=lambda image: image * 0.9, generators=random)

    def train(self, number: int) -> tuple[Step, dict[str, Tensor]]:
        """A whole step: losses, gradient descent on the student and the refiner, updates."""
        step = self.step(number)
        losses = self.refiner.losses(step)
        parameters = [*self.student.parameters(), *self.refiner.parameters()]
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        total = weighted_cross_entropy(step.source.prediction.logits, step.source.batch.label) + sum(losses.values())
        gradients = torch.autograd.grad(total, learned, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter -= 0.0 if gradient is None else 0.01 * gradient
            self.teacher.update(self.student, number)
            self.refiner.remember(step)
            self.refiner.after_step(step)
        return step, losses


def make_world(
    case: str, classes: int = 5, batch: int = 2, *, changes: dict[str, Any] | None = None, absent: int | None = None,
    order: list[int] | None = None, fit: bool = True, seed: int = 0,
) -> World:  # fmt: skip
    """A world of ``classes`` classes.

    Args:
        changes: further settings. absent: a class that no label has and the teacher never sees.
        order: the same world with class ``order[c]`` in place of class c.
        fit: let the refiner look at the data.
    """
    torch.manual_seed(seed)
    student = ToySegmenter(classes)
    source, target = labeled(batch, classes), unlabeled(batch)
    with torch.no_grad():
        for head in (student.classifier, student.auxiliary):
            head.weight *= 4.0  # opinions that differ from pixel to pixel
            if absent is not None:
                head.bias[absent] = -100.0
            if order is not None:
                head.weight.copy_(head.weight[order])
                head.bias.copy_(head.bias[order])
    if absent is not None:
        source = replace(source, label=source.label.masked_fill(source.label == absent, (absent + 1) % classes))
    if order is not None:
        place = torch.tensor([order.index(c) for c in range(classes)] + [255] * (256 - classes))
        source = replace(source, label=place[source.label])
    names = [NAMES[c] for c in (order or range(classes))]
    space = LabelSpace("toy", tuple(names), tuple((c, c, c) for c in range(classes)))
    settings = REFINERS[case.split("/")[0]].model_validate(CASES[case] | (changes or {}))
    teacher = Teacher(student, TeacherSettings(decay=0.9))
    torch.manual_seed(seed)
    refiner = settings.build(student, space)  # pyright: ignore[reportAttributeAccessIssue]
    if fit:
        passes = [[part[i : i + 1] for i in range(batch)] for part in (source, target)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that is absent is warned of
            refiner.fit(teacher, *passes)
    return World(student, teacher, refiner.train(), source, target)


def check_labels(before: PseudoLabels, after: PseudoLabels) -> None:
    """Shapes and ranges; no trust is made up."""
    assert after.probs.shape == before.probs.shape
    assert after.weight.shape == before.weight.shape
    assert after.probs.dtype == after.weight.dtype == torch.float32
    assert bool((after.probs >= 0).all())
    assert torch.allclose(after.probs.sum(dim=1), torch.ones_like(after.weight), atol=1e-4)
    assert bool(((after.weight >= 0) & (after.weight <= before.weight + 1e-6)).all())
    assert not after.probs.requires_grad
    assert not after.weight.requires_grad


def before_and_after(step: Step) -> tuple[PseudoLabels, PseudoLabels]:
    """The teacher's labels of a step, and what the refiner made of them."""
    assert step.target is not None
    assert step.target.view is not None
    return PseudoLabels.from_view(step.target.view), step.target.labels


def check_finite(losses: dict[str, Tensor]) -> None:
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert bool(torch.isfinite(loss)), name


def held_tensors(value: Any) -> int:
    """Numbers held in tensors anywhere inside a module, its plain attributes included."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, nn.Module):
        return sum(held_tensors(each) for name, each in vars(value).items() if name != "settings")
    if isinstance(value, dict):
        return sum(map(held_tensors, value.values()))
    return sum(map(held_tensors, value)) if isinstance(value, list | tuple | set) else 0


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class RefinerContract:
    """Subclass it and parametrise ``case``."""

    @pytest.mark.parametrize(("classes", "batch"), [(5, 2), (5, 1), (2, 2), (2, 1)])
    def test_shapes_and_ranges(self, case, classes, batch):
        world = make_world(case, classes, batch)
        for number in range(2):
            view = world.view
            before = PseudoLabels.from_view(view)
            check_labels(before, world.refiner(view, before))
            check_finite(world.train(number)[1])

    def test_a_class_absent(self, case):
        world = make_world(case, absent=2)
        for number in range(2):
            step, losses = world.train(number)
            check_labels(*before_and_after(step))
            check_finite(losses)

    def test_what_is_rejected_stays_rejected_and_gets_no_gradient(self, case):
        world = make_world(case)
        view = world.view
        weight = torch.ones_like(view.probs[:, 0])
        weight[:, :, ::2] = 0.0
        labels = world.refiner(view, PseudoLabels(view.probs, weight))
        assert bool((labels.labels[:, :, ::2] == 255).all())
        logits = world.student(world.target.image).logits
        logits.retain_grad()
        weighted_cross_entropy(logits, labels.labels, labels.weight).backward()
        assert logits.grad is not None
        assert bool((logits.grad.movedim(1, -1)[labels.weight == 0] == 0).all())
        assert logits.grad.any() == (labels.weight > 0).any()

    def test_gradients_reach_only_whom_they_should(self, case):
        world = make_world(case)
        world.train(0)  # so that the student is no longer what it started as
        world.teacher.requires_grad_(True)  # so that a path into it would show
        step = world.step()
        assert step.target is not None
        assert step.target.view is not None
        assert not step.target.view.logits.requires_grad
        losses = world.refiner.losses(step)
        teaches = case in TEACH_THE_STUDENT or listed(case, TEACH_THE_STUDENT - ONLY_BY_VARIANT)
        own = [parameter for parameter in world.refiner.parameters() if parameter.requires_grad]
        assert bool(own) == listed(case, LEARN)
        if losses:
            sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        assert not any(parameter.grad is not None for parameter in world.teacher.parameters())
        assert any(_moves(parameter) for parameter in world.student.parameters()) == teaches
        assert any(_moves(parameter) for parameter in own) == listed(case, LEARN)
        frozen = [parameter for parameter in world.refiner.parameters() if not parameter.requires_grad]
        assert not any(parameter.grad is not None for parameter in frozen)

    def test_losses_without_any_label(self, case):
        world = make_world(case)
        world.source.label.fill_(255)
        view = world.view
        labels = PseudoLabels(view.probs, torch.zeros_like(view.probs[:, 0]))
        losses = world.refiner.losses(world.step(labels=labels))
        check_finite(losses)
        total = sum(losses.values())
        if isinstance(total, Tensor) and total.requires_grad:
            total.backward()
        for parameter in (*world.student.parameters(), *world.refiner.parameters()):
            assert parameter.grad is None or bool(parameter.grad.isfinite().all())

    def test_a_supervised_step(self, case):
        world = make_world(case, fit=False)
        check_finite(world.refiner.losses(world.step(supervised=True)))

    def test_class_permutation_equivariance(self, case):
        if case in FIXED_ORDER:
            pytest.skip(FIXED_ORDER[case])
        order = [3, 0, 4, 1, 2]
        found = []
        for world in (make_world(case), make_world(case, order=order)):
            view = world.view
            found.append(world.refiner(view, PseudoLabels.from_view(view)))
        torch.testing.assert_close(found[0].probs[:, order], found[1].probs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[0].weight, found[1].weight, rtol=1e-3, atol=1e-4)

    def test_bfloat16_autocast(self, case):
        world = make_world(case)
        with torch.autocast("cpu", torch.bfloat16):
            step = world.step()
            losses = world.refiner.losses(step)
        check_labels(*before_and_after(step))
        check_finite(losses)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        if losses:
            sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        world.refiner.remember(step)
        world.refiner.after_step(step)

    def test_a_restored_state_goes_on_bit_for_bit(self, case):
        world = make_world(case)
        for number in range(2):
            world.train(number)
        again = make_world(case, fit=False, seed=9)
        for name in ("student", "teacher", "refiner"):
            getattr(again, name).load_state_dict(copy.deepcopy(getattr(world, name).state_dict()))
        for number in range(2, 4):
            one, losses = world.train(number)
            other, losses_again = again.train(number)
            assert one.target is not None
            assert other.target is not None
            assert torch.equal(one.target.labels.probs, other.target.labels.probs)
            assert torch.equal(one.target.labels.weight, other.target.labels.weight)
            assert same(losses, losses_again)
        assert same(world.refiner.state_dict(), again.refiner.state_dict())
        assert same(world.student.state_dict(), again.student.state_dict())

    def test_memory_does_not_grow(self, case):
        world = make_world(case)
        sizes = []
        for number in range(4):
            world.train(number)
            sizes.append((held_tensors(world.refiner), [part.shape for part in world.refiner.state_dict().values()]))
        assert sizes[1:] == sizes[:-1]

    def test_labels_from_files_leave_no_trace(self, case):
        """In an offline generation labels are made before the first step, which then has no view."""
        world = make_world(case)
        before = copy.deepcopy(world.refiner.state_dict())
        world.refiner(world.view, PseudoLabels.from_view(world.view))
        step = world.step()
        assert step.target is not None
        step.target.view = None
        losses = world.refiner.losses(step)
        check_finite(losses)
        world.refiner.remember(step)
        world.refiner.after_step(step)
        kept = {name: value for name, value in world.refiner.state_dict().items() if name in MOVES_ONLINE}
        assert same(kept, {name: before[name] for name in kept})


MOVES_ONLINE = {"histogram", "thresholds", "distribution", "prototypes", "head_copy", "bank.rows", "trained_steps"}
"""State that follows the teacher's views."""


def _moves(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())
