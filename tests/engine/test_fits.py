"""What a network cannot learn from, and what it has not learned, is known before training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.fits import pools_to_one_cell, refuse_one_learner, warn_of_random_reference
from segrefinery.models import ModelSettings, wrap
from segrefinery.stages.kinds import SelfTrainingSettings


def test_a_batch_norm_behind_a_pooling_of_the_whole_sees_one_cell_and_is_left_as_it_was():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)).eval()
    assert not pools_to_one_cell(plain, (64, 64))
    assert pools_to_one_cell(pooled, (64, 64))
    assert not pooled.training
    assert torch.equal(plain[1].running_mean, torch.zeros(4))


@pytest.mark.parametrize(
    ("model", "weight", "warns"),
    [
        ({"name": "small"}, 1.0, True), ({"name": "efficientnet_lite0", "weights": "none"}, 1.0, True),
        ({"name": "efficientnet_lite0"}, 1.0, False), ({"name": "small"}, 0.0, False),
        ({"name": "small", "weights": "model.safetensors"}, 1.0, False),
    ],
)  # fmt: skip
def test_that_random_weights_are_held_fast_is_said(model, weight, warns, caplog):
    settings = SelfTrainingSettings.model_validate({"steps": 1, "refine": {"feature_distance": {"weight": weight}}})
    warn_of_random_reference("adapt", settings, ModelSettings(**model))
    said = "stages.adapt.refine.feature_distance: holds the encoder near what its pre-training taught, and that of"
    assert (said in caplog.text) is warns


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ({"target_loss": "variance_regularized"}, r"target_loss: .*stages\.adapt\.target_loss=cross_entropy"),
        ({"refine": {"implicit_rectification": {}}}, r"refine\.implicit_rectification: .*rectification=false"),
    ],
)
def test_one_classifier_is_not_compared_with_another(stage, remedy):
    settings = SelfTrainingSettings.model_validate({"steps": 1, **stage})
    layers = nn.Conv2d(3, 2, 1)
    with pytest.raises(SegRefineryError, match=rf"stages\.adapt\.{remedy}"):
        refuse_one_learner("adapt", settings, wrap(layers, 2), "mine")
    network = wrap(layers, 2)
    network.learner_channels = (4, 4)
    refuse_one_learner("adapt", settings, network, "mine")
    refuse_one_learner("adapt", SelfTrainingSettings(steps=1), wrap(layers, 2), "mine")
