import copy
import warnings

import pytest
import torch
from torch import nn

from segrefinery.core.randomness import generator
from segrefinery.data.batch import TranslatedBatch
from segrefinery.data.translation import TranslationSettings, translate
from segrefinery.labels import LabelSpace
from segrefinery.losses import domain_loss, weighted_cross_entropy
from segrefinery.models.segmenter import Prediction
from segrefinery.stages.adversarial import Adversarial, AdversarialSettings
from segrefinery.stages.base import Passes, StageContext, StepBatch
from segrefinery.stages.common import LossWeights
from segrefinery.stages.target_guided import target_stream
from toys import ToySegmenter, labeled, unlabeled

SPACE = LabelSpace.of("toy", ["a", "b", "c", "d", "e"])


class OneLearner(ToySegmenter):
    """The toy without its second learner."""

    def __init__(self) -> None:
        super().__init__()
        self.learner_channels = self.learner_channels[:1]

    def forward(self, image):
        seen = super().forward(image)
        return Prediction(seen.logits, seen.features)


def build(model=None, handed_on=None, seed=0, **settings) -> Adversarial:
    torch.manual_seed(seed)
    model = model or ToySegmenter()
    context = StageContext(model, model, model, SPACE, handed_on or {})
    return AdversarialSettings(steps=100, discriminator_width=4, **settings).build(context)


def streamed(stage: Adversarial, source, target, random):
    """The stage's target stream."""
    return target_stream(source, target, stage.settings, stage.normalization, random)


def batch(number: int = 0) -> StepBatch:
    random = [generator(number, place) for place in range(2)]
    return StepBatch(number, labeled(seed=number), unlabeled(seed=number + 50), random)


def one_step(stage, trained, number=0):
    """What the loop does."""
    for item in trained.values():
        item.optimizer.zero_grad(set_to_none=True)
    found = {}
    for losses in filter(None, stage.step(batch(number))):
        torch.stack(list(losses.values())).sum().backward()
        found |= {name: loss.item() for name, loss in losses.items()}
    for item in trained.values():
        item.optimizer.step()
    stage.after_step(batch(number))
    return found


def gradients(module: nn.Module):
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in module.parameters()]


def test_who_learns_from_which_loss():
    stage = build()
    terms = stage.step(batch())
    sum(next(terms).values()).backward()
    supervised = gradients(stage.model)
    fool = next(terms)
    assert set(fool) == {"fool_main", "fool_aux"}
    sum(fool.values()).backward()
    fooled = gradients(stage.model)
    assert any(not torch.equal(a, b) for a, b in zip(supervised, fooled))
    assert all(gradient is None for gradient in gradients(stage.discriminators))
    last = next(terms)
    assert set(last) == {"discriminator_main", "discriminator_aux"}
    sum(last.values()).backward()
    assert all(torch.equal(a, b) for a, b in zip(fooled, gradients(stage.model)))
    assert all(gradient is not None for gradient in gradients(stage.discriminators))
    assert next(terms, None) is None


@pytest.mark.parametrize("objective", ["vanilla", "least_squares"])
def test_losses_by_hand(objective):
    stage, now = build(objective=objective), batch()
    found = {name: loss for losses in stage.step(now) for name, loss in losses.items()}
    on_source, on_target = stage.model(now.source.image), stage.model(now.target.image)
    big = nn.functional.interpolate(on_target.aux_logits, (32, 48), mode="bilinear").softmax(1)
    scores = stage.discriminators["aux"](big)
    assert torch.allclose(found["fool_aux"], 0.0002 * domain_loss(scores, 0.0, objective))
    assert torch.allclose(found["source_aux"], 0.1 * weighted_cross_entropy(on_source.aux_logits, now.source.label))
    other = nn.functional.interpolate(on_source.aux_logits, (32, 48), mode="bilinear").softmax(1)
    expected = domain_loss(stage.discriminators["aux"](other), 0.0, objective) + domain_loss(scores, 1.0, objective)
    assert torch.allclose(found["discriminator_aux"], expected / 2)


def test_a_network_with_one_learner_and_the_cheap_grid():
    stage = build(OneLearner(), upsample=False, disc_input="entropy")
    assert set(stage.discriminators) == {"main"}
    assert set(one_step(stage, stage.optimizers())) == {"source", "fool_main", "discriminator_main"}


def test_entropy_minimisation_needs_no_discriminator():
    zero = LossWeights(main=0, aux=0)
    stage = build(adversarial=zero, entropy=LossWeights(main=0.001, aux=0.0002))
    assert set(stage.optimizers()) == {"model"}
    assert set(one_step(stage, stage.optimizers())) == {"source", "source_aux", "entropy", "entropy_aux"}
    assert stage.numbers() == {}
    plain = build(adversarial=zero)
    assert set(one_step(plain, plain.optimizers())) == {"source", "source_aux"}


def test_it_trains_both_networks():
    stage = build()
    before = copy.deepcopy(stage.state_dict())
    trained = stage.optimizers()
    losses = [one_step(stage, trained, 0)["discriminator_main"] for _ in range(30)]
    assert losses[-1] < losses[0]
    after = stage.state_dict()
    for part in ("model.stem.weight", "discriminators.main.layers.0.weight", "discriminators.aux.layers.8.weight"):
        assert not torch.equal(before[part], after[part])


def test_a_resumed_stage_continues_exactly():
    settings = {"translation": TranslationSettings()}
    first = build(**settings)
    trained = first.optimizers()
    one_step(first, trained, 0)
    state = copy.deepcopy((first.state_dict(), {name: item.optimizer.state_dict() for name, item in trained.items()}))
    other = build(seed=9, **settings)
    again = other.optimizers()
    other.load_state_dict(state[0])
    for name, item in again.items():
        item.optimizer.load_state_dict(state[1][name])
    assert one_step(first, trained, 1) == one_step(other, again, 1)
    for one, two in zip(first.state_dict().values(), other.state_dict().values()):
        assert torch.equal(one, two)


def test_translated_images_join_the_target_stream():
    now = batch()
    args = now.source, now.target.image, now.generators
    assert streamed(build(), *args) == (now.target.image, None)
    image, label = streamed(build(translation=TranslationSettings(), translated_share=1.0), *args)
    assert torch.equal(label, now.source.label)
    assert torch.allclose(image, translate(now.source.image, now.target.image))
    assert streamed(build(translation=TranslationSettings(), translated_share=0.0), *args)[1] is None
    quiet = build(translation=TranslationSettings(), translated_share=1.0, translated_ce=False)
    assert "translated" not in one_step(quiet, quiet.optimizers())
    color = build(translation=TranslationSettings(kind="color"), translated_share=1.0)
    assert "translated" in one_step(color, color.optimizers())


def test_half_the_target_stream_is_translated_and_sizes_may_differ():
    stage, number = build(translation=TranslationSettings()), 0
    source = labeled(2, size=(40, 56))
    for seed in range(100):
        image, label = streamed(stage, source, unlabeled().image, [generator(seed, 0), generator(seed, 1)])
        assert image.shape == (2, 3, 32, 48)
        if label is not None:
            assert label.shape == (2, 32, 48)
            number += int((label != 255).flatten(1).any(1).sum())
    assert 75 < number < 125


def from_folder(**options) -> TranslatedBatch:
    """A source batch with translations of its images; they are never read from the folder here."""
    source = labeled(**options)
    return TranslatedBatch(source.image, source.label, source.index, source.image + 3.0)


def test_a_folders_translations_join_the_target_stream_as_they_are():
    folder = TranslationSettings(kind="folder", folder="there")
    source, target, random = from_folder(), unlabeled().image, batch().generators
    image, label = streamed(build(translation=folder, translated_share=1.0), source, target, random)
    assert torch.equal(image, source.translated)
    assert torch.equal(label, source.label)
    for seed in range(20):  # the same places as with FDA's
        streams = []
        for settings in (folder, TranslationSettings()):
            random = [generator(seed, place) for place in range(2)]
            streams.append(streamed(build(translation=settings), source, target, random))
        (image, label), (_, of_fda) = streams
        assert (label is None) == (of_fda is None)
        for place in range(2):
            theirs = label is not None and bool((label[place] != 255).any())
            assert torch.equal(image[place], source.translated[place] if theirs else target[place])
            assert label is None or torch.equal(label[place], of_fda[place])
    stage = build(translation=folder, translated_share=1.0)
    now = StepBatch(0, source, unlabeled(), batch().generators)
    assert any("translated" in losses for losses in stage.step(now))


def test_a_folders_translations_take_the_targets_size():
    stage = build(translation=TranslationSettings(kind="folder", folder="there"), translated_share=1.0)
    source = from_folder(size=(40, 56))
    image, label = streamed(stage, source, unlabeled().image, batch().generators)
    assert image.shape == (2, 3, 32, 48)
    assert label.shape == (2, 32, 48)
    assert image.mean().item() == pytest.approx(source.translated.mean().item(), abs=0.1)


def test_only_a_folder_asks_for_translated_images():
    asked = [None, TranslationSettings(), TranslationSettings(kind="folder", folder="there")]
    found = [AdversarialSettings(steps=1, translation=settings).translated_folder for settings in asked]
    assert found == [None, None, "there"]


@pytest.mark.filterwarnings("ignore:guided sampling is as good as uniform")
def test_guided_rounds_go_on_from_stage_to_stage(tmp_path):
    handed_on, stages, model = {}, [], ToySegmenter()
    for name in ("1", "2", "3"):
        stage = build(model, handed_on, target_guided={"uncertain": 2}, rounds=3).eval()
        stage.prepare(Passes([], [unlabeled(2)], tmp_path / name))
        handed_on = {part: copy.deepcopy(module.state_dict()) for part, module in stage.handed_on().items()}
        stages.append(stage)
    counts = torch.tensor([[50, 0, 0, 0, 0], [40, 5, 5, 0, 0], [10, 10, 10, 10, 10]])
    assert [stage.guides_sampling for stage in stages] == [False, True, True]
    assert stages[0].source_probabilities(counts) is None
    assert stages[1].source_probabilities(counts).sum().item() == pytest.approx(1)
    assert [stage.nothing_to_do is None for stage in stages] == [True, True, False]  # nothing was trained in between


def test_without_guidance_nothing_is_measured_or_handed_on(tmp_path):
    stage = build(rounds=2)
    stage.prepare(Passes([], [], tmp_path))
    assert not stage.guides_sampling
    assert stage.source_probabilities(torch.ones(2, 5)) is None
    assert stage.handed_on() == {}


def test_there_is_one_way_to_sample():
    with pytest.raises(ValueError, match="sampling: uniform"):
        AdversarialSettings(steps=1, sampling="rare_class", target_guided={})


def test_prepare_draws_the_discriminators(tmp_path):
    drawn = []
    for seed in (0, 1):
        stage = build(seed=seed)
        torch.manual_seed(7)
        stage.prepare(Passes([], [], tmp_path))
        drawn.append(stage.discriminators.state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_a_discriminator_that_wins_is_reported_and_the_run_goes_on():
    stage = build(adversarial=LossWeights(main=0.001, aux=0))
    for module in stage.discriminators.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    trained = stage.optimizers()
    one_step(stage, trained)
    assert 0.0 <= stage.numbers()["discriminator_accuracy"] <= 1.0
    for _ in range(51):
        stage._see(torch.tensor([-9.0]), torch.tensor([9.0]))
    with pytest.warns(UserWarning, match="align nothing"):
        numbers = stage.numbers()
    assert numbers == {"discriminator_accuracy": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage._see(torch.tensor([-9.0]), torch.tensor([9.0]))
        stage.numbers()
    assert all(torch.tensor(value).isfinite() for value in one_step(stage, trained).values())
