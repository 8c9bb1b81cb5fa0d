"""Every shipped recipe loads at every scale, and runs unattended at scale small."""

import json

import pytest
import yaml

from runs import TINY, narrow, tiny_run
from segrefinery.errors import SegRefineryError
from segrefinery.recipe import dump_recipe, load_recipe, read_recipe, recipe_names

SHORT = {"supervised": 3, "adversarial": 2, "self_training": 3, "distillation": 2}


@pytest.mark.parametrize("name", recipe_names())
def test_it_loads_at_every_scale_and_reads_back_the_same(name, tmp_path):
    scales = read_recipe(name)[0].get("scales", {})
    assert "small" in scales
    for scale in ("paper", *scales):
        recipe = load_recipe(name, scale)
        assert recipe.about.strip()
        copy = tmp_path / f"{scale}.yaml"
        copy.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(copy) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_it_runs_unattended_at_scale_small(name, tmp_path):
    recipe = load_recipe(name, "small")
    run = tiny_run(tmp_path / "run", name, narrow(name, SHORT))
    results = json.loads((run / "results.json").read_text())
    last = list(results["stages"])[-1]
    assert 0 <= results["stages"][last]["miou"] <= 1
    if name not in ("source_only", "oracle"):
        assert results["source_only"]["stage"] == "source"
        assert results["adapted"]["stage"] == last
    assert "lr" in yaml.safe_load((run / "recipe.yaml").read_text())["stages"][list(recipe.stages)[-1]]["optimizer"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.corp=[1, 2]", r"data\.corp: unknown key; valid keys: .*crop"),
        ("data.batch=many", r"data\.batch: .*integer.*'many'"),
        ("stages.adapt.refine.entropy_mixtur={}", "unknown refiner 'entropy_mixtur'.*entropy_mixture"),
        ("stages.adapt.kind=selftraining", "unknown kind of stage 'selftraining'.*self_training"),
        ("stages.adapt.optimizer.speed=1", r"stages\.adapt.*optimizer\.speed: unknown key"),
        ("model.name=deeplab", "unknown model 'deeplab'"),
        ("target_data.crop=[64, 64]", r"stages\.adapt mixes .*data\.crop is \(128, 128\)"),
        ("nonsense", r"a\.b\.c=value"),
        ("name.of.it=1", "no parts to set"),
        ("format=99", "format 99"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_choices(override, message):
    with pytest.raises(SegRefineryError, match=message):
        load_recipe("self_training", "small", [override])


def test_unknown_recipe_scale_and_file_are_named(tmp_path):
    with pytest.raises(SegRefineryError, match=r"unknown recipe 'self_trainng'.*Did you mean 'self_training'"):
        load_recipe("self_trainng")
    with pytest.raises(SegRefineryError, match=r"unknown scale.*small"):
        load_recipe("self_training", "tiny")
    with pytest.raises(SegRefineryError, match=r"missing\.yaml"):
        load_recipe(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(SegRefineryError, match=r"bad\.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_a_refiner_can_be_added_and_switched_off_from_the_command_line():
    recipe = load_recipe("cpsl", "small", ["stages.adapt.refine.pixel_attention.weight=0.005"])
    assert list(recipe.stages["adapt"].refine) == ["confidence_threshold", "self_labeling", "pixel_attention"]
    recipe = load_recipe("self_training", "small", ["stages.adapt.refine.confidence_threshold=false"])
    assert recipe.stages["adapt"].refine == {}


def test_naming_pixel_attention_in_a_chain_puts_the_stage_that_trains_it_before():
    added = "stages.adapt.refine.pixel_attention={weight: 0.005, kernel: 3}"
    recipe = load_recipe("proda", "small", [added])
    assert list(recipe.stages) == ["source", "warmup", "attention", "adapt"]
    stage, source = recipe.stages["attention"], recipe.stages["source"]
    assert (stage.start, stage.hands_on, stage.steps) == ("previous", "refiners", source.steps)
    assert stage.weights.main == stage.weights.aux == 0
    assert stage.refine["pixel_attention"].train
    assert stage.refine["pixel_attention"].kernel == 3
    # nothing is added where a stage before trains it, or where there is nothing to train
    assert list(load_recipe("pixel_attention", "small").stages) == ["source", "attention", "adapt"]
    without = "stages.adapt.refine.pixel_attention={kernel: 0}"
    assert "attention" not in load_recipe("proda", "small", [without]).stages


def test_pixel_attention_added_in_one_line_is_trained_before_it_teaches(tmp_path, caplog):
    added = "stages.adapt.refine.pixel_attention={}"
    run = tiny_run(tmp_path / "run", "self_training", ("stages.source.steps=4", "stages.adapt.steps=3", added))
    assert (run / "stages" / "attention" / "result.pt").exists()
    assert "never trained" not in caplog.text
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("attention_target" in record for record in records if record["stage"] == "adapt")
    assert list(load_recipe(run / "recipe.yaml").stages) == ["source", "attention", "adapt"]


def test_the_tiny_settings_of_the_tests_are_valid():
    load_recipe("self_training", "small", TINY)
