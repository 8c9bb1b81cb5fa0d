"""What stages do without a source."""

import copy

import pytest
import torch
from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.evaluation.trust import Observation
from segrefinery.labels import LabelSpace
from segrefinery.losses import entropy_loss
from segrefinery.models import wrap
from segrefinery.models.teacher import Teacher
from segrefinery.refine import NoSource, PseudoLabels, parse_chain
from segrefinery.refine.tether import Tether
from segrefinery.stages.base import Passes, StageContext, StepBatch
from segrefinery.stages.distillation import DistillationSettings
from segrefinery.stages.entropy_minimization import EntropyMinimizationSettings
from segrefinery.stages.parse import parse_stages
from segrefinery.stages.self_training import SelfTrainingSettings
from toys import ToySegmenter, unlabeled

SPACE = LabelSpace.of("toy", ["a", "b", "c", "d", "e"])


def context(model=None):
    torch.manual_seed(0)
    model = model or ToySegmenter()
    return StageContext(model, model, copy.deepcopy(model), SPACE)


def batch(number=0):
    return StepBatch(number, None, unlabeled(seed=number), [generator(number, place) for place in range(2)])


def one_step(stage, number=0):
    optimizer = stage.optimizers()["model"].optimizer
    stage.train()
    optimizer.zero_grad()
    found = {}
    for losses in stage.step(batch(number)):
        torch.stack(list(losses.values())).sum().backward()
        found |= losses
    optimizer.step()
    stage.after_step(batch(number))
    return found


@pytest.mark.parametrize("mixing", ["classmix", "cutmix", "none"])
@pytest.mark.parametrize("labels", ["online"])
def test_self_training_learns_from_the_target_alone(mixing, labels):
    settings = SelfTrainingSettings(steps=2, mixing=mixing, labels=labels, refine=parse_chain(["tether"]))
    assert settings.needs_source is None
    stage = settings.build(context())
    stage.prepare(Passes([], [unlabeled(1)], folder=None))  # pyright: ignore[reportArgumentType]
    before = copy.deepcopy(stage.model.state_dict())
    losses = one_step(stage)
    assert {"target", "tether"} <= losses.keys()
    assert not any("source" in name for name in losses)
    assert any(not torch.equal(before[name], each) for name, each in stage.model.state_dict().items())
    torch.testing.assert_close(stage.watch.source, stage.watch.early)


def test_target_images_are_mixed_with_their_labels_and_weights():
    stage = SelfTrainingSettings(steps=1).build(context())
    target = unlabeled()
    height, width = target.image.shape[-2:]
    probs = torch.zeros(2, 5, height, width)
    probs[0, 0, : height // 2], probs[0, 1, height // 2 :], probs[1, 2] = 1, 1, 1
    weight = torch.stack([torch.full((height, width), 0.25), torch.full((height, width), 0.75)])
    mixed = stage.mix(None, target, PseudoLabels(probs, weight), [generator(place) for place in range(2)])
    assert not mixed.pasted.any()  # all of it is the target's own
    # one class of image 0 lies over image 1, with image 0's pixels, label and weight
    pasted = mixed.label[1] != 2
    assert 0 < pasted.float().mean() < 1
    assert set(mixed.label[1][pasted].tolist()) < {0, 1}
    assert torch.equal(mixed.image[1][:, pasted], target.image[0][:, pasted])
    assert torch.equal(mixed.weight[1], torch.where(pasted, 0.25, 0.75))
    assert torch.equal(mixed.image[1][:, ~pasted], target.image[1][:, ~pasted])


def test_distillation_learns_without_a_source():
    stage = DistillationSettings(steps=1).build(context())
    assert "distillation" in one_step(stage)


def test_a_refiner_that_asks_for_the_source_is_told_what_to_declare():
    with pytest.raises(ValueError, match="needs_source"):
        NoSource().batch  # noqa: B018


@pytest.mark.parametrize(
    ("refiner", "needed"),
    [
        ("refinement_network", True),
        ("pixel_contrast", True),
        ("feature_distance", True),
        ({"pixel_attention": {"train": True}}, True),
        ({"pixel_attention": {"domains": "target"}}, False),
        ("implicit_rectification", True),
        ({"implicit_rectification": {"source_weight": 0}}, False),
        ("self_labeling", False),
        ("prototypes", False),
        ("entropy_mixture", False),
        ("masked_consistency", False),
    ],
)
def test_refiners_say_whether_they_need_the_source(refiner, needed):
    (settings,) = parse_chain([refiner]).values()
    assert settings.needs_source == needed


@pytest.mark.parametrize("refiner", [{"prototypes": {"min_pixels": 1}}, {"self_labeling": {"samples": 16, "bank": 64}}])
def test_prototypes_of_classes_never_seen_do_without_source_labels(refiner):
    model = ToySegmenter()
    with torch.no_grad():
        model.classifier.bias[2] = -100.0
    stage = SelfTrainingSettings(steps=1, refine=parse_chain([refiner])).build(context(model))
    with pytest.warns(UserWarning, match="random directions"):
        stage.prepare(Passes([], [unlabeled(1)], folder=None))  # pyright: ignore[reportArgumentType]
    assert all(torch.isfinite(loss) for loss in one_step(stage).values())


def test_what_is_left_of_stages_beside_a_trained_model():
    stages = parse_stages(
        {
            "source": {"kind": "supervised", "steps": 3},
            "taught": {"kind": "supervised", "steps": 3, "refine": ["implicit_rectification"]},
            "attention": {"kind": "supervised", "steps": 3, "hands_on": "refiners"},
            "oracle": {"kind": "supervised", "steps": 3, "learn_from": "target_labels"},
            "adapt": {"kind": "self_training", "steps": 3},
        }
    )
    rest = {name: stage.beside_a_model() for name, stage in stages.items()}
    assert rest["source"] is None
    assert rest["taught"] == stages["taught"].model_copy(update={"hands_on": "refiners"})
    assert all(rest[name] is stages[name] for name in ("attention", "oracle", "adapt"))


def test_a_tether_holds_to_the_first_network_it_was_fitted_to():
    context_ = context()
    tether = Tether(context_.initial)
    first, second = Teacher(ToySegmenter()), Teacher(ToySegmenter())
    for teacher in (first, second):
        tether.fit(teacher, [], [])
    state = first.network.state_dict()
    assert all(torch.equal(state[name], each) for name, each in tether.reference.state_dict().items())


# -- entropy minimisation ----------------------------------------------------------------------------------------------


def normed():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1)
    return wrap(nn.Sequential(*layers), 5)


def test_batch_norms_alone_learn_and_the_network_becomes_sure():
    settings = EntropyMinimizationSettings.model_validate(
        {"steps": 30, "optimizer": {"name": "adam", "lr": 0.01, "power": 0}}
    )
    stage = settings.build(context(normed()))
    stage.prepare(Passes([], [unlabeled(2)], folder=None))  # pyright: ignore[reportArgumentType]
    before = copy.deepcopy(stage.model.state_dict())
    image = unlabeled(2).image
    unsure = entropy_loss(stage.model.eval()(image).logits).item()
    optimizer = stage.optimizers()["model"].optimizer
    stage.train()
    for number in range(30):
        optimizer.zero_grad()
        for losses in stage.step(batch(number)):
            losses["entropy"].backward()
        optimizer.step()
    moved = {name for name, each in stage.model.state_dict().items() if not torch.equal(before[name], each)}
    assert moved == {f"module.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")} | {
        "module.1.num_batches_tracked"
    }
    assert all(parameter.requires_grad for parameter in stage.model.parameters())  # for the next stage
    assert entropy_loss(stage.model.eval()(image).logits).item() < unsure


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(SegRefineryError, match="this network has none"):
        EntropyMinimizationSettings(steps=1).build(context())


class Normed(ToySegmenter):
    """A toy with a batch norm that does not start where its images lie."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(5.0)

    def forward(self, image):
        return super().forward(self.norm(image))


def sees(steady):
    """A look that finds a network as steady as ``steady`` says of the mean it normalises by."""

    def look(network):
        agree = int(100 * steady(network.norm.running_mean[0].item()))
        counts = torch.zeros(1, 5, 5, dtype=torch.int64)
        counts[0].fill_diagonal_(agree)
        counts[0, 0, 1:] = 100 - agree
        probs = torch.full((1, 5, 5), 0.01).half()
        probs[0].fill_diagonal_(0.96)
        stable = torch.ones(1, 5, dtype=torch.bool)
        return Observation(["a"], probs, {"scale": counts}, stable, torch.zeros(1))

    return look


@pytest.mark.parametrize(("kept", "steady"), [
    (0.5, lambda mean: 0.9 if 1 < mean < 4 else 0.2),
    (0.0, lambda mean: 0.9 if mean < 1 else 0.2),
    (0.5, lambda mean: 0.5),  # of equals the one that keeps more
])  # fmt: skip
def test_statistics_that_the_label_free_score_ranks_highest_are_in_force_and_stand_still(kept, steady):
    stage = SelfTrainingSettings(steps=2, strong=None, statistics="chosen").build(context(Normed()))
    target = unlabeled(1)
    stage.prepare(Passes([], [target], None, look=sees(steady)))  # pyright: ignore[reportArgumentType]
    expected = kept * 5.0 + (1 - kept) * target.image.mean(dim=(0, 2, 3))
    one_step(stage)
    for network in (stage.model, stage.teacher.network):
        torch.testing.assert_close(network.norm.running_mean, expected)
        assert not network.norm.training
