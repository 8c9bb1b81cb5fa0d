"""Recipes without a scale state their papers: what is easily let in from the recipe they extend, and must not be."""

import pytest
import torch

from segrefinery.models import ModelSettings, build_model
from segrefinery.recipe import load_recipe

PRODA = {"clip_norm": None, "photometric": 0, "blur": 0, "flip": 0.5, "evaluation": 1024, "crop": (512, 896)}
ADAPTSEGNET = {"clip_norm": None, "photometric": 0, "blur": 0, "flip": 0, "evaluation": 512, "crop": (720, 1280)}
UNCERDA = ADAPTSEGNET | {"flip": 0.5, "crop": (512, 1024)}
STATED = {
    "proda": PRODA,
    "cpsl": PRODA,
    "cpsl_distilled": PRODA,
    "adaptsegnet": ADAPTSEGNET,
    "advent": ADAPTSEGNET,
    "pixel_attention": ADAPTSEGNET,
    "uncerda_aa": UNCERDA,
    "uncerda": UNCERDA,
}
"""Recipe -> gradient clipping, colour changes, flips, short side of evaluation (of 1024), crop of the source."""


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_states_its_paper(name):
    recipe = load_recipe(name)
    data, target = recipe.data, recipe.target_data
    assert STATED[name] == {
        "clip_norm": recipe.training.clip_norm,
        "photometric": data.photometric,
        "blur": data.blur,
        "flip": data.flip,
        "evaluation": target.evaluation_short_side or target.short_side,
        "crop": data.crop,
    }
    assert (target.photometric, target.blur, target.flip) == (data.photometric, data.blur, data.flip)


@pytest.mark.parametrize("name", ["proda", "cpsl", "cpsl_distilled"])
def test_prodas_network_has_one_classifier(name):
    settings = load_recipe(name).model
    with torch.device("meta"):
        network = build_model(ModelSettings(name=settings.name, weights="none", options=settings.options), 19)
    assert len(network.learner_channels) == 1
    assert sum(parameter.numel() for parameter in network.parameters()) == 65_063_568  # of the authors' network


def test_uncerdas_self_training_trains_batch_norm_on_the_target_alone():
    adapt = load_recipe("uncerda").stages["adapt"]
    assert (adapt.batch_norm, adapt.source_weight, adapt.labels) == ("train", 0, "offline")


@pytest.mark.parametrize(("name", "source"), [("proda", 1209), ("cpsl", 1100), ("cpsl_distilled", 1100)])
def test_images_are_2200_wide(name, source):
    """GTA5 is 1914 x 1052 in ProDA's code, 2048 x 1024 in CPSL's; Cityscapes is 2048 x 1024."""
    recipe = load_recipe(name)
    assert (recipe.data.short_side, recipe.target_data.short_side) == (source, 1100)


def test_generations_of_sam():
    assert load_recipe("pixel_attention_gta5").stages["adapt"].generations == 5
    assert load_recipe("pixel_attention_fcn8s").stages["adapt"].generations == 6


def test_the_distillation_of_cpsl_is_as_long_as_the_authors_logs():
    assert load_recipe("cpsl_distilled").stages["distill"].steps == 80_000
