"""The names of the formulas are fixed: whoever checks one against its paper finds it at the same place, with the same
arguments, shapes and meaning."""

import importlib
import inspect

import pytest
import torch

EMPTY = inspect.Parameter.empty
FIXED = {
    "refine.confidence": {
        "normalized_entropy": {"probs": EMPTY, "dim": 1},
        "class_thresholds": {"histogram": EMPTY, "portion": 0.5, "cap": 0.9},
    },
    "data.sampling": {
        "soft_balance_probabilities": {
            "pixel_counts": EMPTY, "classes": None, "balance": 0.9, "steepness": 80.0, "midpoint": 0.02,
        },
        "rare_class_probabilities": {"pixel_counts": EMPTY, "temperature": 0.01},
    },
    "refine.entropy_mixture": {
        "fit_two_gaussians": {"values": EMPTY},
        "certain_posterior": {"values": EMPTY, "mixture": EMPTY},
    },
    "refine.prototypes": {"prototype_weights": {"features": EMPTY, "prototypes": EMPTY, "temperature": 1.0}},
    "refine.self_labeling": {
        "sinkhorn": {"scores": EMPTY, "class_marginal": EMPTY, "epsilon": 0.05, "iterations": 3},
        "rectify": {"cluster_probs": EMPTY, "soft_labels": EMPTY},
        "update_class_distribution": {"distribution": EMPTY, "labels": EMPTY, "momentum": EMPTY},
    },
    "refine.pixel_attention": {"pixel_attention": {"logits": EMPTY, "embedding": EMPTY}},
    "spectrum": {"swap_low_frequency_amplitude": {"content": EMPTY, "style": EMPTY, "fraction": EMPTY}},
    "refine.implicit_rectification": {
        "mixture_nll": {"log_weights": EMPTY, "log_probs": EMPTY, "labels": EMPTY},
        "ImplicitRectification": {},
    },
    "data.mixing": {
        "classmix": {"image_a": EMPTY, "label_a": EMPTY, "image_b": EMPTY, "label_b": EMPTY, "classes": EMPTY}
    },
    "evaluation.confusion": {"ConfusionMatrix": {"num_classes": EMPTY}},
}  # fmt: skip


def at(module, name):
    return getattr(importlib.import_module(f"segrefinery.{module}"), name)


CASES = [(module, name) for module, names in FIXED.items() for name in names]


@pytest.mark.parametrize(("module", "name"), CASES)
def test_positional_arguments_come_first_and_whatever_else_has_a_default(module, name):
    given = list(inspect.signature(at(module, name)).parameters.values())
    fixed = FIXED[module][name]
    assert [(one.name, one.default) for one in given[: len(fixed)]] == list(fixed.items())
    assert name == "ImplicitRectification" or all(one.default is not EMPTY for one in given[len(fixed) :])


def probabilities(*shape):
    torch.manual_seed(0)
    return torch.rand(*shape).softmax(dim=1)


def test_shapes_of_confidence_and_sampling():
    assert at("refine.confidence", "normalized_entropy")(probabilities(2, 4, 3, 5)).shape == (2, 3, 5)
    thresholds = at("refine.confidence", "class_thresholds")(torch.tensor([[0, 0, 3, 3], [0, 0, 0, 0]]))
    assert thresholds.shape == (2,)
    assert thresholds[1] == 0  # a class without pixels
    counts = torch.tensor([[9, 1], [9, 0], [5, 5]])
    drawn = at("data.sampling", "soft_balance_probabilities")(counts, [1])
    assert drawn.shape == (3,)
    assert drawn.sum().item() == pytest.approx(1)
    rare = at("data.sampling", "rare_class_probabilities")(torch.tensor([9, 1]))
    torch.testing.assert_close(rare, torch.tensor([10.0, 90.0], dtype=rare.dtype).softmax(0), rtol=1e-4, atol=1e-6)


def test_shapes_of_the_mixture():
    values = torch.cat([torch.full((50,), 0.1), torch.full((50,), 0.9)]) + 0.02 * torch.randn(100)
    mixture = at("refine.entropy_mixture", "fit_two_gaussians")(values)
    assert mixture.weights.shape == mixture.means.shape == mixture.stds.shape == (2,)
    assert mixture.means[0] < mixture.means[1]
    posterior = at("refine.entropy_mixture", "certain_posterior")(values.view(4, 25), mixture)
    assert posterior.shape == (4, 25)
    assert posterior.flatten()[0] > 0.5 > posterior.flatten()[-1]


def test_shapes_of_prototypes_and_clusters():
    features, prototypes = torch.randn(2, 6, 3, 5), torch.randn(4, 6)
    weights = at("refine.prototypes", "prototype_weights")(features, prototypes)
    assert weights.shape == (2, 4, 3, 5)
    distance = (features[:, None] - prototypes[None, :, :, None, None]).norm(dim=2)
    torch.testing.assert_close(weights, (-distance).softmax(dim=1), rtol=1e-4, atol=1e-5)
    assignment = at("refine.self_labeling", "sinkhorn")(torch.rand(7, 4), torch.full((4,), 0.25))
    assert assignment.shape == (7, 4)
    torch.testing.assert_close(assignment.sum(dim=1), torch.ones(7))
    one, two = probabilities(2, 4, 3, 5), probabilities(2, 4, 3, 5)
    rectified = at("refine.self_labeling", "rectify")(one, two)
    torch.testing.assert_close(rectified, one * two / (one * two).sum(dim=1, keepdim=True))
    labels = torch.tensor([[[0, 0, 1, 255]], [[1, 1, 1, 1]]])  # shares 2/3, 1/3 and 0, 1
    moved = at("refine.self_labeling", "update_class_distribution")(torch.tensor([0.5, 0.5]), labels, 0.9)
    torch.testing.assert_close(moved, 0.9 * torch.tensor([0.5, 0.5]) + 0.1 * torch.tensor([1 / 3, 2 / 3]))


def test_shapes_of_attention_spectrum_and_rectification():
    logits = torch.randn(2, 4, 3, 5)
    assert at("refine.pixel_attention", "pixel_attention")(logits, torch.randn(2, 6, 3, 5)).shape == logits.shape
    content, style = torch.randn(2, 3, 8, 12), torch.randn(2, 3, 8, 12)
    swap = at("spectrum", "swap_low_frequency_amplitude")
    torch.testing.assert_close(swap(content, content, 0.1), content, rtol=1e-4, atol=1e-5)
    swapped = torch.fft.fftshift(torch.fft.fft2(swap(content, style, 0.2)).abs(), dim=(-2, -1))
    wanted, kept = (torch.fft.fftshift(torch.fft.fft2(image).abs(), dim=(-2, -1)) for image in (style, content))
    square = (slice(None), slice(None), slice(3, 6), slice(5, 8))  # b = 1 around the centre (4, 6)
    torch.testing.assert_close(swapped[square], wanted[square], rtol=1e-3, atol=1e-3)
    kept[square] = swapped[square]
    torch.testing.assert_close(swapped, kept, rtol=1e-3, atol=1e-3)
    log_weights, log_probs = torch.randn(2, 3, 7).log_softmax(1), torch.randn(2, 3, 4, 7).log_softmax(2)
    labels = torch.randint(0, 4, (2, 7))
    labels[0, 0] = 255
    nll = at("refine.implicit_rectification", "mixture_nll")(log_weights, log_probs, labels)
    mixture = (log_weights[:, :, None] + log_probs).exp().sum(dim=1)
    known = labels != 255
    chosen = mixture.gather(1, labels.masked_fill(~known, 0)[:, None])[:, 0]
    torch.testing.assert_close(nll, -chosen[known].log().mean())


def test_classmix_shows_a_where_its_label_is_chosen():
    image_a, image_b = torch.ones(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)
    label_a, label_b = torch.tensor([[[0, 1, 2, 255]]]), torch.full((1, 1, 4), 3)
    image, label, mask = at("data.mixing", "classmix")(image_a, label_a, image_b, label_b, [torch.tensor([0, 2])])
    assert mask.tolist() == [[[True, False, True, False]]]
    assert label.tolist() == [[[0, 3, 2, 3]]]
    assert image[0, 0, 0].tolist() == [1, 0, 1, 0]


def test_the_confusion_matrix_has_the_reference_in_rows():
    matrix = at("evaluation.confusion", "ConfusionMatrix")(3)
    matrix.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 255]]))
    assert matrix.matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert matrix.iou.tolist()[:2] == [0.5, 0.5]
    assert (matrix.miou, matrix.pixel_accuracy, matrix.mean_pixel_accuracy) == pytest.approx((0.5, 2 / 3, 0.75))
