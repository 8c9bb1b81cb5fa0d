"""The mixture's formulas, and the function that weighs the learners at any point."""

import math

import pytest
import torch
import torch.nn.functional as F

from segrefinery.models.segmenter import Learner
from segrefinery.refine.implicit_rectification.formulas import log_mixture, mixture_nll, pixel_centres
from segrefinery.refine.implicit_rectification.function import ImplicitRectification

CLASSES = 4
BOX = (0.25, 0.0, 0.75, 0.5)


def learners(second_size: tuple[int, int] = (4, 6), box=(0.0, 0.0, 1.0, 1.0), seed: int = 0) -> list[Learner]:
    rng = torch.Generator().manual_seed(seed)
    return [
        Learner(torch.randn(2, CLASSES, 6, 9, generator=rng), torch.randn(2, 5, 6, 9, generator=rng)),
        Learner(
            torch.randn(2, CLASSES, *second_size, generator=rng), torch.randn(2, 3, *second_size, generator=rng), box
        ),
    ]


def function(**switches) -> ImplicitRectification:
    """A module whose last layer is no longer zero."""
    torch.manual_seed(0)
    module = ImplicitRectification((5, 3), CLASSES, hidden=16, **switches)
    torch.nn.init.normal_(module.psi[-1].weight, std=1.0)
    return module


def points(count: int = 50) -> torch.Tensor:
    return torch.rand(2, count, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1


# -- mixture_nll ------------------------------------------------------------------------------------------------------


def test_nll_by_hand():
    weights, probs = torch.tensor([[[0.25], [0.75]]]), torch.tensor([[[[0.9], [0.1]], [[0.2], [0.8]]]])
    nll = mixture_nll(weights.log(), probs.log(), torch.tensor([[0]]))
    assert nll.item() == pytest.approx(-math.log(0.25 * 0.9 + 0.75 * 0.2))


def test_nll_ignores_and_weighs():
    log_weights = torch.full((1, 2, 3), math.log(0.5))
    log_probs = torch.randn(1, 2, 4, 3).log_softmax(dim=2)
    labels = torch.tensor([[1, 255, 3]])
    each = -(0.5 * log_probs.exp()).sum(dim=1).log()
    torch.testing.assert_close(mixture_nll(log_weights, log_probs, labels), (each[0, 1, 0] + each[0, 3, 2]) / 2)
    weighed = mixture_nll(log_weights, log_probs, labels, weight=torch.tensor([[0.5, 1.0, 0.0]]))
    torch.testing.assert_close(weighed, 0.5 * each[0, 1, 0] / 2)


def test_one_learner_is_plain_cross_entropy_exactly():
    logits, labels = torch.randn(2, 1, 4, 9), torch.randint(0, 4, (2, 9))
    labels[0, 0] = 255
    ours = mixture_nll(torch.zeros(2, 1, 9), logits.log_softmax(dim=2), labels)
    assert ours.item() == pytest.approx(F.cross_entropy(logits[:, 0], labels, ignore_index=255).item(), rel=1e-6)

    learner = learners()[:1]
    module = ImplicitRectification((5,), CLASSES, hidden=8)
    assert not module(learner, points()).any()
    label = torch.randint(0, CLASSES, (2, 12, 18))
    grid = pixel_centres((12, 18)).expand(2, -1, -1)
    upsampled = F.interpolate(learner[0].logits, (12, 18), mode="bilinear")
    torch.testing.assert_close(module.nll(learner, grid, label.flatten(1)), F.cross_entropy(upsampled, label))


def test_gradients_are_the_responsibilities():
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 1, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(1, 2, 3, 1, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[2]])

    def loss(s, z):
        return -(s.log_softmax(1) + z.log_softmax(2)[:, :, 2]).logsumexp(1).sum()

    assert torch.autograd.gradcheck(loss, (scores, logits))
    mixture_nll(scores.log_softmax(1), logits.log_softmax(2), label).backward()
    weights, probs = scores.detach().softmax(1)[0, :, 0], logits.detach().softmax(2)[0, :, :, 0]
    gamma = weights * probs[:, 2] / (weights * probs[:, 2]).sum()
    torch.testing.assert_close(scores.grad[0, :, 0], weights - gamma, atol=1e-6, rtol=1e-5)
    expected = gamma[:, None] * (probs - torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(logits.grad[0, :, :, 0], expected, atol=1e-6, rtol=1e-5)


def test_all_ignored_is_zero_with_a_graph():
    z = torch.randn(1, 2, 3, 4, requires_grad=True)
    loss = mixture_nll(torch.zeros(1, 2, 4).log_softmax(1), z.log_softmax(2), torch.full((1, 4), 255))
    loss.backward()
    assert loss == 0
    assert not z.grad.any()


def test_classwise_mixture_sums_to_one():
    log_weights = torch.randn(2, 3, 4, 5).log_softmax(dim=1)
    log_probs = torch.randn(2, 3, 4, 5).log_softmax(dim=2)
    torch.testing.assert_close(log_mixture(log_weights, log_probs).exp().sum(dim=1), torch.ones(2, 5))
    labels = torch.randint(0, 4, (2, 5))
    expected = F.nll_loss(log_mixture(log_weights, log_probs), labels)
    torch.testing.assert_close(mixture_nll(log_weights, log_probs, labels), expected)


# -- the function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [{}, {"classwise": True}, {"pe": "fourier"}, {"unfold": True}, {"ensemble": "nearest"}, {"ensemble": "joint"},
     {"weighting": "discrete"}, {"space": "logit"}, {"noise_component": True}],
)  # fmt: skip
def test_every_switch_gives_a_distribution_that_learns(switches):
    module = function(**switches)
    log_weights = module(learners(), points())
    assert log_weights.shape == ((2, 2, CLASSES, 50) if switches.get("classwise") else (2, 2, 50))
    torch.testing.assert_close(log_weights.exp().sum(dim=1), torch.ones_like(log_weights[:, 0]))
    assert log_weights.std() > 0.01
    torch.testing.assert_close(module.mixture_log_probs(learners(), points()).exp().sum(dim=1), torch.ones(2, 50))
    module.nll(learners(), points(), torch.randint(0, CLASSES, (2, 50))).backward()
    assert all(parameter.grad.any() for parameter in module.parameters() if parameter.ndim > 1)


def test_starts_as_the_plain_average():
    module = ImplicitRectification((5, 3), CLASSES, hidden=8)
    both = learners()
    expected = sum(F.interpolate(one.logits, (12, 18), mode="bilinear").softmax(dim=1) for one in both) / 2
    torch.testing.assert_close(module.decode(both, (12, 18)), expected)
    equal = ImplicitRectification((5, 3), CLASSES, weighting="equal")
    torch.testing.assert_close(equal.decode(both, (12, 18)), expected)
    assert not list(equal.parameters())


def jump_of(module: ImplicitRectification, sizes=((16, 16), (24, 24))) -> float:
    rng = torch.Generator().manual_seed(4)
    both = [
        Learner(torch.randn(1, CLASSES, *size, generator=rng), torch.randn(1, depth, *size, generator=rng))
        for size, depth in zip(sizes, (5, 3), strict=True)
    ]
    line = torch.stack([torch.full((40001,), 0.21), torch.linspace(0.1, 0.3, 40001)], dim=-1)
    weights = module(both, line[None]).exp()[0, 0]
    return (weights[1:] - weights[:-1]).abs().max().item()


def test_continuous_across_cell_borders():
    assert jump_of(function()) < 1e-3
    assert jump_of(function(weighting="discrete")) < 1e-3
    assert jump_of(function(ensemble="nearest")) > 1e-2
    assert jump_of(function(ensemble="joint")) > 1e-2


def test_same_points_in_chunks_of_any_size():
    module = function()
    whole = module.decode(learners(), (20, 30), chunk=10_000)
    for chunk in (1, 7, 64):
        torch.testing.assert_close(module.decode(learners(), (20, 30), chunk=chunk), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("switches", [{}, {"weighting": "discrete"}, {"pe": "fourier"}])
def test_three_times_the_resolution_holds_the_same_values(switches):
    module = function(**switches)
    coarse, fine = module.decode_weights(learners(), (5, 7)), module.decode_weights(learners(), (15, 21))
    torch.testing.assert_close(fine[:, :, 1::3, 1::3], coarse, atol=2e-5, rtol=0)


def test_outside_its_box_a_learner_has_no_say():
    module = function()
    both = learners((4, 4), BOX)
    weights = module.decode_weights(both, (8, 8))
    assert (weights[:, 1, 2:6, :4] > 0).all()
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, :4] = True
    assert (weights[:, 0, ~inside] == 1).all()
    mixed, first = module.decode(both, (8, 8)), F.interpolate(both[0].logits, (8, 8), mode="bilinear").softmax(dim=1)
    torch.testing.assert_close(mixed[:, :, ~inside], first[:, :, ~inside])
    for one in both:
        one.logits.requires_grad_()
    module.nll(both, points(), torch.zeros(2, 50, dtype=torch.int64)).backward()
    assert all(one.logits.grad.isfinite().all() for one in both)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_constant_latents_give_weights_that_repeat_with_the_cells():
    module = function()
    both = learners((6, 9))
    for one in both:
        one.latent = torch.ones_like(one.latent)
    weights = module.decode_weights(both, (18, 27))
    torch.testing.assert_close(weights[..., 3:6, 3:6], weights[..., 9:12, 12:15], atol=1e-5, rtol=0)


def test_noise_component_joins_only_when_asked():
    module = function(noise_component=True)
    assert module(learners(), points()).shape == (2, 2, 50)
    log_weights = module(learners(), points(), noise=True)
    torch.testing.assert_close(log_weights.exp().sum(dim=1), torch.ones(2, 50))
    assert log_weights.shape == (2, 3, 50)
    wrong = [
        Learner(torch.tensor([50.0, -50, -50, -50]).view(1, 4, 1, 1).expand(2, 4, 3, 3), one.latent)
        for one in learners()
    ]
    labels = torch.ones(2, 50, dtype=torch.int64)
    assert module.nll(wrong, points(), labels) > 50
    noise = log_weights[:, 2]
    rescued = module.nll(wrong, points(), labels, noise=True)
    bound = -(module(wrong, points(), noise=True)[:, 2] - math.log(4)).mean()
    torch.testing.assert_close(rescued, bound)
    assert noise.isfinite().all()
    with pytest.raises(ValueError, match="noise_component"):
        function()(learners(), points(), noise=True)


def test_detached_latents_get_no_gradient_from_the_weights():
    for detach in (False, True):
        both = learners()
        for one in both:
            one.latent.requires_grad_()
        function(detach_latents=detach).nll(both, points(), torch.zeros(2, 50, dtype=torch.int64)).backward()
        assert all((one.latent.grad is None) == detach for one in both)


def test_the_networks_own_shares_in_logit_space_are_its_own_fusion():
    both = learners((6, 9))
    attention = torch.rand(2, CLASSES, 6, 9)
    both[0].share, both[1].share = 1 - attention, attention
    module = ImplicitRectification((5, 3), CLASSES, weighting="heuristic", space="logit")
    fused = (1 - attention) * both[0].logits + attention * both[1].logits
    torch.testing.assert_close(module.decode(both, (6, 9)), fused.softmax(dim=1), atol=1e-5, rtol=1e-4)


def test_shared_reader():
    module = ImplicitRectification((5, 5), CLASSES, hidden=8, shared=True)
    assert len(module.phi) == 1
    with pytest.raises(ValueError, match="shared"):
        ImplicitRectification((5, 3), CLASSES, shared=True)


def test_float32_under_autocast():
    module = function()
    expected = module(learners(), points())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = learners()
        seen = module(half, points())
        dense = module.decode(half, (6, 6))
    assert seen.dtype == dense.dtype == torch.float32
    torch.testing.assert_close(seen, expected)
    low = [Learner(one.logits.bfloat16(), one.latent.bfloat16()) for one in learners()]
    assert module(low, points()).dtype == torch.float32


def test_bad_input():
    module = function()
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        module(learners(), torch.full((2, 1, 2), 1.001))
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        module(learners(), torch.full((2, 1, 2), math.nan))
    with pytest.raises(ValueError, match="B x Q x 2"):
        module(learners(), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="built for"):
        module(learners()[:1], points())
    with pytest.raises(ValueError, match="whole image"):
        module([Learner(one.logits, one.latent, BOX) for one in learners()], points())
    with pytest.raises(ValueError, match="learned weights"):
        ImplicitRectification((5, 3), CLASSES, weighting="equal", noise_component=True)


def test_learns_an_edge_inside_the_cells_that_its_discrete_form_blurs():
    """Learner 0 always says class 0, which is right left of a slanted edge; learner 1 says class 1, right beyond it.
    The latents tell each cell's distance from the edge, so only the position inside the cell can place it exactly."""
    size, cells = 32, 4
    y, x = pixel_centres((size, size)).unbind(-1)
    labels = (x > 0.4 * y + 0.07).long()[None]
    centre_y, centre_x = pixel_centres((cells, cells)).unbind(-1)
    distance = (centre_x - 0.4 * centre_y - 0.07).view(1, 1, cells, cells)
    sure = torch.tensor([3.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, cells, cells)
    both = [Learner(sure, distance), Learner(-sure, distance)]
    errors = {}
    for weighting in ("implicit", "discrete"):
        torch.manual_seed(1)
        module = ImplicitRectification((1, 1), 2, hidden=16, weighting=weighting)
        optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
        grid = pixel_centres((size, size))[None]
        for _ in range(60):
            optimizer.zero_grad()
            module.nll(both, grid, labels).backward()
            optimizer.step()
        errors[weighting] = (module.decode_weights(both, (size, size))[0, 1].flatten() - labels[0]).abs().mean().item()
    assert errors["implicit"] < 0.5 * errors["discrete"], errors


def test_an_ignored_query_without_any_support_has_no_gradient():
    probs = torch.zeros(1, 2, 3, 2)
    probs[..., 0] = 1 / 3
    probs[:, :, 1, 1] = 1.0  # the second query, which is ignored, gives class 0 no support at all
    log_probs = probs.log().requires_grad_()
    for shape in ((1, 2, 2), (1, 2, 3, 2)):
        log_weights = torch.full(shape, 0.5).log().requires_grad_()
        loss = mixture_nll(log_weights, log_probs, torch.tensor([[0, 255]]))
        assert loss.item() == pytest.approx(math.log(3))
        for gradient in torch.autograd.grad(loss, [log_weights, log_probs]):
            assert gradient.isfinite().all()
            assert gradient[..., 1].count_nonzero() == 0


def test_double_precision_is_kept():
    rng = torch.Generator().manual_seed(0)
    log_weights = torch.randn(2, 2, 5, generator=rng, dtype=torch.float64).log_softmax(1).requires_grad_()
    log_probs = torch.randn(2, 2, 4, 5, generator=rng, dtype=torch.float64).log_softmax(2).requires_grad_()
    labels = torch.randint(0, 4, (2, 5), generator=rng)
    assert torch.autograd.gradcheck(lambda a, b: mixture_nll(a, b, labels), (log_weights, log_probs))
    module = function().double()
    wide = [Learner(one.logits.double(), one.latent.double()) for one in learners()]
    points = torch.rand(2, 5, 2, generator=rng, dtype=torch.float64) * 2 - 1
    assert module.nll(wide, points, labels).dtype == torch.float64
    torch.testing.assert_close(module(wide, points).float(), function()(learners(), points.float()))


@pytest.mark.parametrize(
    ("weights", "labels"), [((1, 2, 5), (2, 5)), ((2, 1, 5), (2, 5)), ((2, 2, 5), (1, 5)), ((2, 2, 5), (2, 1))]
)
def test_nll_names_shapes_that_do_not_fit(weights, labels):
    with pytest.raises(ValueError, match="labels B x Q expected"):
        mixture_nll(torch.zeros(weights), torch.zeros(2, 2, 4, 5), torch.zeros(labels, dtype=torch.long))
