"""A step does not wait for the GPU but where it must; looked for on a pretended one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    "refine/self_labeling/formulas.py:update_class_distribution: index by a mask": "images that are all ignored",
    "refine/entropy_mixture/refiner.py:dataset_rule: equal": "whether its rule still holds",
    "refine/entropy_mixture/refiner.py:_gather: bincount": "mixtures are fitted on the CPU, in float64",
    "refine/entropy_mixture/refiner.py:_image_rule: nonzero": "mixtures are fitted on the CPU",
    "refine/entropy_mixture/formulas.py:fit_binned: _local_scalar_dense": "mixtures are fitted on the CPU",
    "refine/pixel_attention/formulas.py:pixel_attention: _local_scalar_dense": "what is not finite is an error",
    "refine/self_labeling/refiner.py:draw: from the GPU": "the labels that pixels are drawn from; draws are the CPU's",
}
"""Where a step waits, and why it has to."""


def waits(*recipes: str) -> dict[str, dict[str, int]]:
    command = [sys.executable, "-W", "ignore", "gpu_waits.py", *recipes]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {recipe: found for line in done.stdout.splitlines() for recipe, found in json.loads(line).items()}


@pytest.mark.parametrize(
    "recipes",
    [
        ("self_training", "ir2f", "uncerda"),
        pytest.param(
            ("cpsl", "prn", "mic", "dacs", "proda", "hrda", "adaptsegnet", "advent", "source_only", "source_free"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("daformer", "pixel_attention", "pixel_attention_online", "uncerda_aa", "uncerda_online", "stack", "oracle",
             "ir2f_hrda", "cpsl_distilled", "entropy_minimization"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "methods", "others"],
)  # fmt: skip
def test_a_step_waits_only_where_it_must(recipes):
    found = waits(*recipes)
    assert found.keys() == set(recipes)
    assert {place for places in found.values() for place in places} <= MUST.keys()
    assert all(places["engine/ranks.py:gather_numbers: tolist"] == 1 for places in found.values())
    assert all(places.get("data/mixing.py:_values_of: from the GPU", 0) <= 1 for places in found.values())
