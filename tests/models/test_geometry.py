"""Where a network's cells lie in the image: a line of one pixel stays where it is in every place that enlarges a map.

The network here has its cells at the pixels 0, 8, ..., 64 of 65, as DeepLab-v2 has them.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from segrefinery.core.resize import bilinear, nearest, resample
from segrefinery.data.augment import Warp, apply_affine
from segrefinery.data.batch import LabeledBatch, MixedBatch, UnlabeledBatch
from segrefinery.evaluation.inference import logits_at
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.losses import (
    kl_divergence,
    learner_cross_entropy,
    symmetric_cross_entropy,
    variance_regularized_loss,
    weighted_cross_entropy,
)
from segrefinery.models import ModelSettings, Teacher, build_model
from segrefinery.models.deeplab import DeepLabV2
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.refine import PseudoLabels, SourceStep, Step, TargetStep
from segrefinery.refine.class_balanced import ClassBalanced, ClassBalancedSettings
from segrefinery.refine.class_features import gather_statistics
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.consistency import StrongView
from segrefinery.refine.contrastive import PixelContrastSettings
from segrefinery.refine.entropy_mixture import class_entropies
from segrefinery.refine.implicit_rectification import ImplicitRectification
from segrefinery.refine.implicit_rectification.refiner import RectifiedSegmenter
from segrefinery.refine.pixel_attention import PixelAttentionSettings
from segrefinery.refine.refinement_network import Refinement, RefinementDecoder, RefinementNetworkSettings
from segrefinery.stages.adversarial import Adversarial, AdversarialSettings
from segrefinery.stages.base import StageContext
from segrefinery.stages.distillation import confident_labels
from segrefinery.stages.kinds import SelfTrainingSettings
from segrefinery.stages.settings import LossWeights
from segrefinery.stages.watch import LabelWatch

SIDE, ROW = 65, 48


class Corners(Segmenter):
    """Sees a pixel a cell, and takes it for class 1 where it is bright."""

    num_classes, feature_channels, level_channels, learner_channels = 2, 3, (3,), (3, 3)

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor) -> Prediction:
        cells = image[..., ::8, ::8]
        logits = 20 * torch.cat([0.5 - cells[:, :1], cells[:, :1] - 0.5], dim=1) + self.anchor
        return Prediction.of([Learner(logits, cells, aligned=True), Learner(logits, cells, aligned=True)])


def picture() -> Tensor:
    image = torch.zeros(2, 3, SIDE, SIDE)
    image[:, :, ROW] = 1
    return image


def row_of(score: Tensor) -> int:
    """The brightest row, away from the border."""
    return int(score.mean(dim=-1).argmax())


def labelled_line(row: int) -> Tensor:
    """Labels that say of one row alone that it is class 1."""
    label = torch.full((2, SIDE, SIDE), IGNORE)
    label[:, row] = 1
    return label


def best_row(loss) -> int:
    """The row of a line of class 1 that a loss likes best."""
    costs = [float(loss(labelled_line(row)).detach()) for row in range(ROW - 6, ROW + 7)]
    return ROW - 6 + costs.index(min(costs))


def test_enlarging_and_its_deterministic_twin():
    cells = Corners()(picture()).logits
    assert row_of(bilinear(cells, (SIDE, SIDE), aligned=True)[0, 1]) == ROW
    assert row_of(bilinear(cells, (SIDE, SIDE))[0, 1]) != ROW
    twin = resample(resample(cells, -2, SIDE, aligned=True), -1, SIDE, aligned=True)
    torch.testing.assert_close(twin, bilinear(cells, (SIDE, SIDE), aligned=True))


@pytest.mark.parametrize("loss", [weighted_cross_entropy, symmetric_cross_entropy])
def test_losses(loss):
    seen = Corners()(picture())
    assert best_row(lambda label: loss(seen.logits, label, aligned=seen.aligned)) == ROW
    assert best_row(lambda label: loss(seen.logits, label)) != ROW


def test_losses_of_learners():
    seen = Corners()(picture())
    assert best_row(lambda label: learner_cross_entropy(seen.learners[1], label)) == ROW
    found = best_row(lambda label: variance_regularized_loss(seen.logits, seen.logits, label, aligned=seen.aligned))
    assert found == ROW


def test_class_balanced_labels_and_crsts_regulariser():
    teacher, view = Teacher(Corners()), Teacher(Corners()).view(picture())
    refiner = ClassBalanced(ClassBalancedSettings(kind="mrkld", portion=1.0), 2)
    refiner.fit(teacher, [], [UnlabeledBatch(picture(), torch.arange(2))])
    labels = refiner(view, PseudoLabels.from_view(view))
    assert row_of(labels.resize((SIDE, SIDE)).probs[0, 1]) == ROW

    def regulariser(label: Tensor, seen: Prediction) -> Tensor:
        mixed = MixedBatch(picture(), label, torch.ones(label.shape), torch.zeros_like(label, dtype=torch.bool))
        source = SourceStep(LabeledBatch(picture(), label, torch.arange(2)), seen)
        return refiner.losses(Step(0, teacher.network, source, TargetStep(teacher, view, labels, mixed, seen)))["mrkld"]

    # Between two cells the network is of two minds; it is surest, and the regulariser highest, where the line is.
    seen = Corners()(picture())
    assert best_row(lambda label: -regulariser(label, seen)) == ROW
    assert best_row(lambda label: -regulariser(label, replace(seen, aligned=False))) != ROW


def test_labels_of_a_view_and_what_refiners_make_of_them():
    view = Teacher(Corners()).view(picture())
    labels = PseudoLabels.from_view(view).weighted(torch.ones(2, 9, 9)).resize((SIDE, SIDE))
    assert row_of(labels.probs[0, 1]) == ROW
    weight = torch.zeros(2, 9, 9)
    weight[:, 6] = 1
    kept = PseudoLabels.from_view(view).weighted(weight).resize((SIDE, SIDE)).weight[0].mean(dim=-1).nonzero()
    assert float(kept.float().mean()) == ROW


def test_predictions_and_distilled_labels():
    assert row_of(logits_at(Corners(), picture(), (SIDE, SIDE))[0, 1]) == ROW
    label = confident_labels(Corners(), picture(), 0.5)[0]
    rows = (label[:, 0] == 1).nonzero().float()
    assert float(rows.mean()) == ROW


@pytest.mark.parametrize("weighting", ["equal", "implicit", "discrete"])
@pytest.mark.parametrize("ensemble", ["four", "joint"])
def test_continuous_decoding(weighting, ensemble):
    torch.manual_seed(0)
    function = ImplicitRectification((3, 3), 2, hidden=8, weighting=weighting, ensemble=ensemble).eval()
    network = RectifiedSegmenter(Corners(), function)
    decoded = network.predict(picture(), (SIDE, SIDE))[0, 1].exp()
    rows = decoded.mean(dim=-1)
    middle = float((rows * torch.arange(SIDE)).sum() / rows.sum())
    # Coordinates go from edge to edge of the image, aligned corners from pixel to pixel: up to half a pixel apart.
    assert abs(middle - ROW) < 0.6
    # On the cells' own grid the mixture of two equal learners is what they say.
    view = Teacher(Corners()).view(picture())
    own = function.decode(view.learners, (9, 9), aligned=True)
    torch.testing.assert_close(own, view.probs, rtol=1e-3, atol=1e-4)


def test_an_implicit_function_reads_latents_where_the_cells_lie():
    """All cells alike, and points on them: the function sees the same everywhere, whatever it has learned."""
    torch.manual_seed(0)
    function = ImplicitRectification((3, 3), 2, hidden=8).eval()
    for parameter in function.parameters():
        nn.init.normal_(parameter, std=0.5)
    learners = Teacher(Corners()).view(torch.ones(1, 3, SIDE, SIDE)).learners
    weights = function.decode_weights(learners, (9, 9), aligned=True)[0, 0]
    torch.testing.assert_close(weights, weights[:1, :1].expand_as(weights), rtol=1e-3, atol=1e-4)
    amiss = [replace(learner, aligned=False) for learner in learners]
    assert function.decode_weights(amiss, (9, 9), aligned=True)[0, 0].std() > 1e-3


def test_the_loss_that_trains_sams_attention():
    network = Corners()
    refiner = PixelAttentionSettings(train=True).build(network)
    seen = network(picture())
    seen = Prediction(seen.logits / 20, seen.features, aligned=True)  # unsure enough to be told from its neighbours

    def loss(label: Tensor) -> Tensor:
        batch = LabeledBatch(picture(), label, torch.arange(2))
        return refiner.losses(Step(0, network, SourceStep(batch, seen)))["pixel_attention"]

    assert best_row(loss) == ROW


def picks(convolution: nn.Conv2d, *channels: int) -> None:
    """A convolution whose outputs are these channels of its input."""
    nn.init.zeros_(convolution.weight)
    for place, channel in enumerate(channels):
        convolution.weight.data[place, channel] = 1


@pytest.mark.parametrize("aligned", [True, False])
def test_prns_network_brings_levels_to_the_grid_of_the_logits(aligned):
    decoder = RefinementDecoder((1,), 2, width=8).eval()
    join = decoder.mix[0]
    picks(join[0], 0)  # the first channel of the first level
    shown: list[Tensor] = []
    join[1].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    torch.nn.init.ones_(decoder.levels[0].weight)
    with torch.no_grad():
        decoder([picture()[:, :1, ::8, ::8]], torch.zeros(2, 2, SIDE, SIDE), aligned)
    assert (row_of(shown[0][0, 0]) == ROW) == aligned


def test_prn_learns_labels_where_its_network_says_them_and_tells_its_network_where_they_lie():
    network, space = Corners(), LabelSpace.of("two", ["ground", "line"])
    refiner = RefinementNetworkSettings(perturbation="none", width=8).build(network, space)
    view, told = Teacher(network).view(picture()), []

    def says_the_line(levels, logits, aligned=False):
        told.append(aligned)
        return Refinement(view.logits / 20, view.logits[:, 0])

    refiner.decoder.forward = says_the_line
    refiner.examine(view)

    def loss(label: Tensor) -> Tensor:
        source = SourceStep(LabeledBatch(picture(), label, torch.arange(2)), network(picture()))
        mixed = MixedBatch.unmixed(picture(), label)
        target = TargetStep(Teacher(network), view, PseudoLabels.from_view(view), mixed, network(picture()))
        return refiner.losses(Step(0, network, source, target, generators=[torch.Generator()] * 2))["refinement"]

    assert best_row(loss) == ROW
    assert set(told) == {True}


def test_pixel_contrast_reads_labels_and_levels_in_register():
    contrast = PixelContrastSettings(width=8, norm="none").build(Corners())
    seen, label = Corners()(picture()), torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    label[:, ROW] = 1
    _, on_grid, wrong = contrast._embed(seen, label)
    assert on_grid.unflatten(1, (9, 9))[0, :, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert not wrong.any()

    # Two levels: the coarse one, whose cells lie on every eighth pixel, is laid over the fine one pixel by pixel.
    join = nn.Conv2d(6, 2, 1, bias=False)
    picks(join, 0, 3)  # the first channel of each
    contrast.projection.layers = nn.Sequential(nn.Sequential(join), nn.Identity())
    fine, coarse = contrast.projection([picture(), seen.features], seen.aligned)[0]
    assert row_of(fine) == row_of(coarse) == ROW


def test_a_strong_view_moves_maps_as_it_moves_images():
    """A third of the side down: a smooth picture's cells move as far as its pixels do."""
    rise = torch.linspace(0, 1, SIDE)[:, None].expand(1, 3, SIDE, SIDE)
    warp = Warp(torch.tensor([[[1.0, 0, 0], [0, 1, -2 / 3]]]), torch.zeros(1, 4))
    image, hidden = apply_affine(rise, warp)
    wanted = Corners()(image).features
    moved, uncovered = apply_affine(Corners()(rise).features, warp, aligned=True)
    assert torch.equal(uncovered, hidden[:, ::8, ::8])
    shown = ~uncovered[:, None].expand_as(moved)
    assert (moved - wanted)[shown].abs().max() < 0.01  # of a cell that rises by 0.125
    amiss, _ = apply_affine(Corners()(rise).features, warp)
    assert (amiss - wanted)[shown].abs().max() > 0.03

    strong = StrongView(Corners()(image), warp)
    assert strong.compare(kl_divergence, Corners()(rise).logits, strong.prediction.logits).item() < 0.01


def test_labels_are_shrunk_to_the_pixels_under_the_cells():
    label = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    label[:, ROW] = 1
    assert nearest(label, (9, 9), aligned=True)[0, :, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert nearest(label, (9, 9))[0].sum() == 0

    watch = LabelWatch(2)
    seen = Corners()(picture())
    watch.see(seen.logits.softmax(1), label, seen, label)
    assert float(watch.agreement) == 1

    # A class that the target lacks takes its prototype from the labelled source.
    source = [LabeledBatch(picture(), label, torch.arange(2))]
    target = [UnlabeledBatch(torch.zeros(2, 3, SIDE, SIDE), torch.arange(2))]
    found = gather_statistics(Teacher(Corners()), source, target, ("ground", "line"))
    assert found.prototypes[1].tolist() == [1, 1, 1]


def seeing_pixels(network: nn.Module) -> nn.Module:
    """Every convolution passes on the mean of the channels at its centre."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            middle = module.kernel_size[0] // 2
            module.weight.data[:, :, middle, middle] = 1 / module.in_channels
    return network.eval()


@pytest.mark.parametrize("side", [64, 65, 60, 67])
def test_deeplabs_cells_lie_from_corner_to_corner(side):
    model = build_model(ModelSettings(name="deeplabv2_resnet101", weights="none", options={"auxiliary": False}), 2)
    assert isinstance(model, DeepLabV2)
    seeing_pixels(model.encoder)
    ramp = (torch.arange(side) + 1.0)[:, None].expand(1, 3, side, side)
    with torch.no_grad():
        seen = model.eval()(ramp)
    assert seen.aligned
    for level, blocks in zip(seen.levels, (3, 7, 30, 33), strict=True):
        found = bilinear(level[:, :1], (side, side), aligned=True)[0, 0, :, side // 2] / 2**blocks - 1
        shift = (found - torch.arange(side))[8:-8]  # the pooling takes the largest of three: a constant
        assert shift.max() - shift.min() < 1.2


@pytest.mark.parametrize("side", [96, 104, 110])
def test_fcn_8s_cells_tile_images_of_any_size(side):
    """What the cells of the three strides see lies at one place: a ramp stays a ramp on all of them."""
    model = build_model(ModelSettings(name="fcn8s_vgg16", weights="none", options={"width": 8}), 2).eval()
    for module in seeing_pixels(model.encoder).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    ramp = (torch.arange(side) + 1.0)[:, None].expand(1, 3, side, side)
    with torch.no_grad():
        seen = model(ramp)
    assert not seen.aligned
    for level, stride in zip(seen.levels, (8, 16, 32), strict=True):
        assert level.shape[-2] == -(-side // stride)
        inside = slice(stride, side - stride - stride // 2)  # the border repeats itself
        found = bilinear(level[:, :1], (side, side))[0, 0, :, side // 2]
        shift = (found - torch.arange(side))[inside]
        assert shift.max() - shift.min() < 1.5


def test_an_aligned_network_inside_the_stages_is_asked():
    network = Corners()
    space = LabelSpace("two", ("ground", "line"), ((0, 0, 0), (255, 255, 255)))
    stage = Adversarial(AdversarialSettings(steps=1), StageContext(network, network, network, space))
    shown = stage.shown(network(picture()), picture())["main"]
    assert row_of(shown[0, 1]) == ROW


@pytest.mark.parametrize("target_loss", ["cross_entropy", "symmetric", "variance_regularized"])
def test_self_training_learns_labels_where_they_lie(target_loss):
    network, space = Corners(), LabelSpace.of("two", ["ground", "line"])
    settings = SelfTrainingSettings(steps=1, target_loss=target_loss, weights=LossWeights(main=1.0, aux=0.5))
    stage = settings.build(StageContext(network, network, network, space))
    seen = network(picture())

    def loss(label: Tensor) -> Tensor:
        return torch.stack(list(stage.target_losses(seen, MixedBatch.unmixed(picture(), label)).values())).sum()

    assert best_row(loss) == ROW


def test_uncertainty_is_that_of_the_pixels_as_they_are_shown():
    image = picture() * torch.linspace(0.3, 0.7, SIDE)  # unsure in different degrees
    found = class_entropies(Corners(), [UnlabeledBatch(image, torch.arange(2))])
    probs = bilinear(Corners()(image).logits, (SIDE, SIDE), aligned=True).softmax(dim=1)
    entropy, label = normalized_entropy(probs), probs.argmax(dim=1)
    torch.testing.assert_close(found, torch.stack([entropy[label == c].double().mean() for c in range(2)]).detach())
