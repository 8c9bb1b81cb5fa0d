"""A step does not wait for the GPU but where it must; looked for on a pretended one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segrefinery.recipe import recipe_names

TESTS = Path(__file__).resolve().parents[1]
MUST = {
    "engine/ranks.py:gather_numbers: tolist": "once a step: its losses, which must be finite before weights move",
    "engine/loop.py:one_step: from the GPU": "only pretended: torch's clipping groups gradients by their true device",
    "data/mixing.py:_values_of: from the GPU": "once a step: which classes there are to draw from; draws are the CPU's",
    "refine/contrastive.py:losses: from the GPU": "once a domain: the labels that anchors are drawn from",
    "losses.py:pixel_contrastive_loss: _local_scalar_dense": "without a pair the gradient would be NaN",
    "refine/refinement_network/refiner.py:forward: _local_scalar_dense": "its own step count, part of the checkpoint",
    "refine/refinement_network/refiner.py:_warn_if_nothing_is_kept: _local_scalar_dense": "to say that nothing is kept",
    "refine/implicit_rectification/function.py:_check: _local_scalar_dense": "coordinates outside are an error",
    "refine/prototypes/formulas.py:distances: nonzero": "pixels so near a prototype that rounding would decide",
    "refine/class_features.py:require_finite: _local_scalar_dense": "a feature that is not finite is an error",
    "refine/self_labeling/bank.py:__len__: _local_scalar_dense": "the ring's place, which is in the checkpoint",
    "refine/self_labeling/bank.py:oldest: _local_scalar_dense": "the ring's place",
    "refine/self_labeling/bank.py:push: _local_scalar_dense": "the ring's place",
    "refine/self_labeling/formulas.py:sinkhorn: _local_scalar_dense": "a wrong marginal is an error; the scores' range",
    "refine/self_labeling/formulas.py:update_class_distribution: _local_scalar_dense": "a wrong label is an error",
    "refine/self_labeling/formulas.py:update_class_distribution: bincount": "how long its result is",
    "refine/self_labeling/formulas.py:update_class_distribution: index by a mask": "ignored pixels are left out",
    "refine/entropy_mixture/refiner.py:dataset_rule: equal": "whether its rule still holds",
    "refine/entropy_mixture/refiner.py:_gather: bincount": "how long its result is",
    "refine/entropy_mixture/refiner.py:_image_rule: nonzero": "which images have pixels enough",
    "refine/entropy_mixture/formulas.py:fit_binned: _local_scalar_dense": "fitting ends when every mixture has settled",
    "refine/pixel_attention/formulas.py:pixel_attention: _local_scalar_dense": "what is not finite is an error",
    "refine/self_labeling/refiner.py:draw: from the GPU": "the labels that pixels are drawn from; draws are the CPU's",
}
"""Where the steps of all recipes wait, and why they have to."""


@pytest.mark.slow
def test_a_step_waits_where_it_must_and_nowhere_else():
    """In one process: the start costs more than a recipe."""
    command = [sys.executable, "-W", "ignore", "gpu_waits.py", *recipe_names()]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    waits = {recipe: places for line in done.stdout.splitlines() for recipe, places in json.loads(line).items()}
    assert waits.keys() == set(recipe_names())
    assert {place for places in waits.values() for place in places} == MUST.keys()
    assert all(places["engine/ranks.py:gather_numbers: tolist"] == 1 for places in waits.values())
    assert all(places.get("data/mixing.py:_values_of: from the GPU", 0) <= 1 for places in waits.values())
