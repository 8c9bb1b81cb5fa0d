"""What refiners learned in one stage, and the network of the next."""

from pathlib import Path

import pytest

import segrefinery.engine.loop as loop
from runs import narrow, tiny_run
from segrefinery.labels import LabelSpace
from segrefinery.refine import REFINERS
from segrefinery.refine.implicit_rectification.function import ImplicitRectification
from toys import ToySegmenter

STEPS = narrow("ir2f", {"supervised": 2, "self_training": 1})


def begins_equal(monkeypatch, folder: Path, *overrides: str) -> dict[str, bool]:
    """By stage, whether IR2F's function weighs the learners alike before the first step."""
    found, step = {}, loop.one_step

    def watched(fabric, name, stage, *rest):
        function = stage.refiners["implicit_rectification"].function
        assert isinstance(function, ImplicitRectification)
        found.setdefault(name, not any(parameter.any() for parameter in function.psi[-1].parameters()))
        return step(fabric, name, stage, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "one_step", watched)
        tiny_run(folder, "ir2f", (*STEPS, *overrides))
    return found


@pytest.mark.parametrize("start", ["fresh", "previous"])
def test_a_function_of_one_networks_features_does_not_read_a_new_one(tmp_path, monkeypatch, start):
    """It begins anew with the network ("w = 1/K at the start"), as in `ir2f_hrda`, and goes on where that does."""
    found = begins_equal(monkeypatch, tmp_path / "run", f"stages.adapt.start={start}")
    assert found == {"source": True, "adapt": start == "fresh"}


def test_a_model_that_was_brought_is_no_new_network(tmp_path, monkeypatch):
    """A run from it trains the function in the `source` stage, for the stage after that starts from the model."""
    model = tiny_run(tmp_path / "theirs", "source_only", ("stages.source.steps=1",)) / "source_model"
    found = begins_equal(monkeypatch, tmp_path / "run", f"model.from={model}", "stages.adapt.start=fresh")
    assert found == {"source": True, "adapt": False}


def test_what_reads_features_says_so():
    """SAM's attention does not: it is taught beside a network that is thrown away."""
    space, network = LabelSpace.of("toy", ["road", "rider", "car", "sky", "bus"]), ToySegmenter()
    reading = {name for name, kind in REFINERS.items() if kind().build(network, space).reads_features}
    assert reading == {
        "implicit_rectification", "pixel_contrast", "prototypes", "refinement_network", "self_labeling",
    }  # fmt: skip
