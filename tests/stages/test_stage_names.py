"""The name of a stage is that of its folder."""

import pytest

from segrefinery.core.errors import SegRefineryError
from segrefinery.recipe import load_recipe

RECIPE = """
name: mine
model: {name: small}
data: {short_side: 32, crop: [32, 32], batch: 2}
stages:
  %s
"""


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("../../x: {kind: supervised, steps: 1}", r"stages\.\.\./\.\./x: the name becomes that of a folder"),
        ("1: {kind: supervised, steps: 1}", r"stages\.1: a name is a text \(got 1\); put it in quotes"),
        (
            "{Adapt: {kind: supervised, steps: 1}, adapt: {kind: supervised, steps: 1}}",
            "'adapt' would be that of stages.Adapt",
        ),
        (
            "{adapt-2: {kind: supervised, steps: 1}, adapt: {kind: self_training, steps: 1, generations: 2}}",
            "'adapt-2' would be that of stages.adapt-2",
        ),
    ],
)
def test_what_is_no_folder_or_anothers_is_refused(tmp_path, stages, words):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE % stages)
    with pytest.raises(SegRefineryError, match=words):
        load_recipe(path)
