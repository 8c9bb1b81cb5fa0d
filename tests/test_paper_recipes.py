"""Recipes without a scale state their papers: what is easily let in from the recipe they extend, and must not be."""

import pytest
import torch

from segrefinery.models import ModelSettings, build_model
from segrefinery.recipe import load_recipe
from segrefinery.stages.settings import ClassifierWeights, OptimizerSettings

ADAPTSEGNET = {
    "data.short_side": 720, "data.crop": (720, 1280), "data.flip": 0, "data.batch": 1, "target_data.crop": (512, 1024),
    "stages.align.steps": 150_000, "stages.align.start": "fresh", "stages.align.objective": "vanilla",
    "stages.align.optimizer": ("sgd", 2.5e-4, 10, 5e-4, 0.9, 0.9, 250_000),
    "stages.align.discriminator_optimizer": ("adam", 1e-4, 10, 0, (0.9, 0.99), 0.9, 250_000),
    "stages.align.weights": (1, 0.1), "stages.align.adversarial": (0.001, 0.0002), "stages.align.disc_input": "softmax",
}  # fmt: skip
PRODA = {
    "data.short_side": 1209, "target_data.short_side": 1100, "target_data.evaluation_short_side": 1024,
    "data.crop": (512, 896), "data.scale": (0.5, 1.5), "data.batch": 4,
    "stages.warmup.start": "fresh", "stages.warmup.objective": "least_squares",
    "stages.warmup.optimizer": ("sgd", 2.5e-4, 10, 2e-4, 0.9, 0.9, 90_000),
    "stages.warmup.discriminator_optimizer": ("adam", 1e-4, 10, 0, (0.9, 0.99), 0.9, 90_000),
    "stages.warmup.weights": (1, 0), "stages.warmup.adversarial": (0.01, 0),
    "stages.adapt.steps": 62_412, "stages.adapt.optimizer": ("sgd", 1e-4, 1, 2e-4, 0.9, 0.9, 90_000),
    "stages.adapt.teacher.decay": 0.999, "stages.adapt.teacher.ramp": False,
    "stages.adapt.target_loss": "symmetric", "stages.adapt.mixing": "none", "stages.adapt.strong": None,
    "stages.adapt.refine.prototypes.temperature": 1, "stages.adapt.refine.prototypes.momentum": 0.9999,
    "stages.adapt.refine.prototypes.structure_weight": 10, "stages.adapt.refine.prototypes.regularizer_weight": 0.1,
    "stages.adapt.refine.prototypes.divisor": "elements", "stages.adapt.refine.prototypes.min_pixels": 10,
    "stages.adapt.refine.prototypes.strong_view.operations": 2,
    "stages.adapt.refine.prototypes.strong_view.cutout": 1 / 3,
    "stages.adapt.refine.prototypes.strong_view.blur": 0,
    "stages.adapt.refine.prototypes.strong_view.jitter_probability": 0,
}  # fmt: skip
LABELING = "stages.adapt.refine.self_labeling."
CPSL = {key: value for key, value in PRODA.items() if ".prototypes." not in key} | {
    "data.short_side": 1100, "stages.adapt.steps": 90_000, "stages.adapt.mixing": "cutmix",
    "stages.adapt.optimizer": ("sgd", 1e-4, 5, 2e-4, 0.9, 0.9, 90_000),
    LABELING + "temperature": 0.08, LABELING + "epsilon": 0.05, LABELING + "iterations": 3, LABELING + "samples": 512,
    LABELING + "bank": 65_536, LABELING + "self_labeling_weight": 0.1, LABELING + "consistency_weight": 5,
    LABELING + "head_lr": 5e-4, LABELING + "head_momentum": 0.999, LABELING + "divisor": "elements",
    LABELING + "strong_view.jitter": 0.4, LABELING + "strong_view.jitter_probability": 0.5,
    LABELING + "strong_view.blur": 0.5, LABELING + "strong_view.cutout": 1 / 3,
}  # fmt: skip
SAM = {
    "data.short_side": 720, "data.crop": (720, 1280), "data.scale": (1, 1), "data.flip": 0, "data.batch": 1,
    "target_data.short_side": 512, "target_data.crop": (512, 1024),
    "stages.attention.optimizer": ("sgd", 2.5e-4, 10, 5e-4, 0.9, 0.9, 250_000), "stages.attention.steps": 120_000,
    "stages.attention.start": "fresh", "stages.attention.hands_on": "refiners",
    "stages.attention.refine.pixel_attention.train_on": "skip",
    "stages.adapt.optimizer": ("sgd", 2.5e-4, 10, 5e-4, 0.9, 0.9, 250_000), "stages.adapt.steps": 120_000,
    "stages.adapt.start": "fresh", "stages.adapt.labels": "offline", "stages.adapt.generations": 5,
    "stages.adapt.mixing": "none", "stages.adapt.strong": None, "stages.adapt.weights": (1, 0),
    "stages.adapt.refine.confidence_threshold.portion": 0.5, "stages.adapt.refine.confidence_threshold.cap": 0.9,
    "stages.adapt.refine.pixel_attention.weight": 0.1, "stages.adapt.refine.pixel_attention.form": "l1",
    "stages.adapt.refine.pixel_attention.target": "skip", "stages.adapt.refine.pixel_attention.domains": "both",
    "stages.adapt.refine.pixel_attention.divisor": "elements",
    "stages.source.weights.mean_over": "labelled", "stages.adapt.weights.mean_over": "labelled",
}  # fmt: skip
ADAM = ("adam", 1e-5, 1, 5e-4, (0.9, 0.99), 0, 50_000)
UNCERDA_AA = ADAPTSEGNET | {
    "data.crop": (512, 1024), "data.flip": 0.5, "stages.align.start": "previous", "stages.align.steps": 25_000,
    "stages.align.rounds": 3, "stages.align.target_guided.uncertain": 7, "stages.align.target_guided.balance": 0.9,
    "stages.align.target_guided.steepness": 80, "stages.align.target_guided.midpoint": 0.02,
}  # fmt: skip
UNCERDA = UNCERDA_AA | {
    "stages.adapt.optimizer": ("sgd", 1e-4, 10, 5e-4, 0.9, 0.9, 100_000), "stages.adapt.steps": 50_000,
    "stages.adapt.batch": 9, "stages.adapt.crop": (256, 512), "stages.adapt.batch_norm": "train",
    "stages.adapt.source_weight": 0, "stages.adapt.labels": "offline", "stages.adapt.weights": (1, 0.5),
    "stages.adapt.target_loss": "variance_regularized", "stages.adapt.mixing": "none", "stages.adapt.strong": None,
    "stages.adapt.refine.entropy_mixture.gmm_scope": "image", "stages.adapt.refine.entropy_mixture.min_pixels": 100,
}  # fmt: skip
DAFORMER = {
    "data.short_side": 720, "data.crop": (512, 512), "data.flip": 0.5, "data.batch": 2, "data.max_class_share": 0.75,
    "data.rare_min_pixels": 3000, "data.rare_crop_ratio": 0.5, "target_data.short_side": 512,
    "stages.adapt.steps": 40_000, "stages.adapt.start": "fresh", "stages.adapt.sampling": "rare_class",
    "stages.adapt.optimizer": ("adamw", 6e-5, 10, 0.01, (0.9, 0.999), 1, None),
    "stages.adapt.optimizer.warmup": 1500, "stages.adapt.optimizer.warmup_ratio": 1e-6,
    "stages.adapt.teacher.decay": 0.999, "stages.adapt.teacher.ramp": True, "stages.adapt.mixing": "classmix",
    "stages.adapt.strong.jitter": 0.2, "stages.adapt.strong.jitter_probability": 0.8,
    "stages.adapt.strong.blur_probability": 0.5, "stages.adapt.strong.sigma": (0.15, 1.15),
}  # fmt: skip
SHARE = {"stages.adapt.refine.confidence_share.threshold": 0.968}
DISTANCE = {
    "stages.adapt.refine.feature_distance.weight": 0.005, "stages.adapt.refine.feature_distance.ratio": 0.75
}  # fmt: skip
HRDA = DAFORMER | SHARE | DISTANCE | {
    "data.short_side": 1440, "target_data.short_side": 1024, "data.crop": (1024, 1024), "data.rare_crop_ratio": 2,
    "window": (1024, 1024), "stages.adapt.weights": (0.9, 0.1),
}  # fmt: skip
PRN = "stages.adapt.refine."
STATED = {
    "adaptsegnet": ADAPTSEGNET,
    "advent": ADAPTSEGNET | {"stages.align.steps": 120_000, "stages.align.disc_input": "entropy"},
    "uncerda_aa": UNCERDA_AA,
    "uncerda": UNCERDA,
    "proda": PRODA,
    "cpsl": CPSL,
    "cpsl_distilled": CPSL
    | {
        "stages.distill.optimizer": ("sgd", 6e-4, 10, 2e-4, 0.9, 0.9, 90_000), "stages.distill.steps": 80_000,
        "stages.distill.confidence": 0.95, "stages.distill.kl_weight": 1, "stages.distill.rounds": 2,
        "stages.distill.divisor": "elements", "stages.distill.start": "fresh", "stages.distill.weights": (1, 0),
    },
    "pixel_attention_gta5": SAM,
    "pixel_attention_synthia": SAM
    | {
        "data.short_side": 760, "data.crop": (760, 1280),
        "stages.adapt.refine.pixel_attention.target": "plain", "stages.adapt.refine.pixel_attention.domains": "target",
    },
    "pixel_attention_fcn8s": SAM
    | {
        "stages.attention.optimizer": ADAM, "stages.adapt.optimizer": ADAM, "stages.adapt.generations": 6,
        "stages.adapt.refine.pixel_attention.weight": 0.001, "stages.adapt.refine.pixel_attention.divisor": "pixels",
        "stages.attention.optimizer.bias_factor": 2, "stages.attention.optimizer.refiner_factor": 1,
        "stages.adapt.optimizer.bias_factor": 2,
    },
    "dacs": SHARE
    | {
        "data.crop": (512, 512), "data.batch": 2, "stages.adapt.steps": 250_000,
        "stages.adapt.optimizer": ("sgd", 2.5e-4, 10, 5e-4, 0.9, 0.9, None), "stages.adapt.teacher.decay": 0.99,
        "stages.adapt.mixing": "classmix",
    },
    "daformer": DAFORMER | SHARE | DISTANCE,
    "mic": DAFORMER
    | SHARE
    | DISTANCE
    | {PRN + "masked_consistency.block": 32, PRN + "masked_consistency.ratio": 0.7},
    "hrda": HRDA,
    "ir2f_hrda": HRDA
    | {
        "stages.adapt.weights": (0, 0.1),
        PRN + "implicit_rectification.target_weight": 0.9, PRN + "implicit_rectification.source_weight": 0.9,
    },
    "prn": DAFORMER
    | {
        PRN + "refinement_network.strength": (0.05, 0.2), PRN + "refinement_network.perturbation": "fourier",
        PRN + "refinement_network.mask_weight": 1, PRN + "refinement_network.mask_target": "input",
        PRN + "refinement_network.width": 256, PRN + "pixel_contrast.weight": 0.1,
        PRN + "pixel_contrast.temperature": 0.1, PRN + "pixel_contrast.min_pixels": 100,
        PRN + "pixel_contrast.samples": 1024, PRN + "pixel_contrast.samples_per_class": 100,
    },
}  # fmt: skip
"""Recipe -> what the paper or its authors' code says. Of an optimizer: its name, rate, factor of the heads, decay,
momentum or betas, power, and the horizon or how often the rate drops."""


def at(recipe, path):
    value = recipe
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    if isinstance(value, OptimizerSettings):
        past = value.momentum if value.name == "sgd" else value.betas
        last = value.drop_every or value.horizon
        return (value.name, value.lr, value.head_factor, value.weight_decay, past, value.power, last)
    return (value.main, value.aux) if isinstance(value, ClassifierWeights) else value


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_states_its_paper(name):
    recipe = load_recipe(name)
    differs = {path: (at(recipe, path), value) for path, value in STATED[name].items() if at(recipe, path) != value}
    assert not differs, "what the recipe has, and what the paper says"


@pytest.mark.parametrize("name", sorted({*STATED, "ir2f"}))
def test_no_paper_clips_gradients(name):
    assert load_recipe(name).training.clip_norm is None


def test_an_image_weighs_as_much_as_ir2fs_mixture_is_sure_of():
    """The share is of the mixture's labels: it comes after the function, on either host."""
    for name in ("ir2f", "ir2f_hrda"):
        chain = list(load_recipe(name).stages["adapt"].refine)
        assert chain[:2] == ["implicit_rectification", "confidence_share"]


@pytest.mark.parametrize("name", sorted(set(STATED) - {"dacs"}))
def test_no_paper_changes_the_colours_of_the_source(name):
    recipe = load_recipe(name)
    assert {data.photometric or data.blur for data in (recipe.data, recipe.target_data)} == {0}
    assert recipe.data.flip == recipe.target_data.flip


@pytest.mark.parametrize("name", ["proda", "cpsl", "cpsl_distilled"])
def test_prodas_network_has_one_classifier_learns_whole_and_reads_plain_colours(name):
    settings = load_recipe(name).model
    with torch.device("meta"):
        network = build_model(ModelSettings(name=settings.name, weights="none", options=settings.options), 19)
    assert len(network.learner_channels) == 1
    assert network.normalization == ((0, 0, 0), (1, 1, 1))  # colours from 0 to 1, whatever its weights were trained on
    assert sum(parameter.numel() for parameter in network.parameters()) == 65_063_568  # of the authors' network
    assert all(parameter.requires_grad for parameter in network.parameters())  # its batch norms learn too
