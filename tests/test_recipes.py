"""Every shipped recipe loads at every scale, and runs unattended at scale small."""

import json
import re

import pytest
import yaml

import segrefinery as api
from runs import DAY, NIGHT, TINY, command, narrow, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.recipe import dump_recipe, load_recipe, read_recipe, recipe_names
from segrefinery.verbs.adapt import differences

SHORT = {"supervised": 3, "adversarial": 2, "self_training": 3, "distillation": 2, "entropy_minimization": 2}


@pytest.mark.parametrize("name", recipe_names())
def test_it_loads_at_every_scale_and_reads_back_the_same(name, tmp_path):
    scales = read_recipe(name)[0].get("scales", {})
    assert "small" in scales
    for scale in ("paper", *scales):
        recipe = load_recipe(name, scale)
        assert recipe.about.strip()
        for stage, settings in recipe.stages.items():
            assert settings.repeats <= load_recipe(name).stages[stage].repeats  # a scale adds no rounds or generations
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
        assert results["adapted"]["stage"] == last or recipe.training.choose == "score"
    assert "lr" in yaml.safe_load((run / "recipe.yaml").read_text())["stages"][list(recipe.stages)[-1]]["optimizer"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.corp=[1, 2]", r"data\.corp: unknown key; valid keys: .*crop.*Did you mean 'crop'"),
        ("data.batch=many", r"data\.batch: .*integer.*'many'"),
        ("stages.adapt.refine.entropy_mixtur={}", "unknown refiner 'entropy_mixtur'.*entropy_mixture"),
        ("stages.adapt.refine=[5]", r"stages\.adapt\.refine: each refiner is a name"),
        ("stages.adpt.steps=4", r"stages\.adpt: a new stage needs a kind: .*Did you mean 'adapt'\?"),
        ("stages.adpt=null", r"unknown stage 'adpt'\. Did you mean 'adapt'\?"),
        ("stages.adapt=5", r"stages\.adapt: a stage is a mapping of settings \(got 5\)"),
        ("stages.adapt.strong.blurr=1", r"stages\.adapt\.strong\.blurr: unknown key; valid keys: jitter"),
        (
            "data.crop=128",
            r"^--set data\.crop=128: data\.crop: write a list of 2 [^;]+ \[128, 128\]: [^;]*height [^;]+\(got 128\)$",
        ),
        ("data.crop=[1, 2, 3]", r"data\.crop: write a list of 2 values: [^;]*height [^;]+ \(got \[1, 2, 3\]\)$"),
        ("stages.adapt.crop=64", r"stages\.adapt\.crop: write a list of 2 values, for instance \[64, 64\]"),
        ("stages.adapt.optimizer.betas=1", r"optimizer\.betas: write a list of 2 values, for instance \[1, 1\]"),
        (
            "target_data.crop=64",
            r"^--set target_data\.crop=64: target_data\.crop: write a list of 2 [^;]+ \[64, 64\]",
        ),
        (
            "window=[64]",
            r"^--set window=\[64\]: window: write a list of 2 values: [^;]*height [^;]+ \(got \[64\]\)$",
        ),
        (
            "window=[]",
            r"^--set window=\[\]: window: write a list of 2 values: [^;]*height [^;]+ \(got \[\]\)$",
        ),
        ("classes=road", r"classes: write a list: trains [^;]+ \(got 'road'\)"),
        ("data=5", r"^--set data=5: data: [^;]*$"),
        (
            "training.accumulate=3",
            r"training\.accumulate is 3, but data\.batch is 4, .* set training\.accumulate to 1 or 2 or 4",
        ),
        ("stages.adapt.kind=selftraining", "unknown kind of stage 'selftraining'.*self_training"),
        ("stages.adapt.optimizer.speed=1", r"stages\.adapt.*optimizer\.speed: unknown key"),
        ("model.name=deeplab", "unknown model 'deeplab'"),
        ("target_data.crop=[64, 64]", r"stages\.adapt mixes .*data\.crop is \(192, 192\)"),
        ("nonsense", r"a\.b\.c=value"),
        ("name.of.it=1", "no parts to set"),
        ("stages.adapt.steps=yes", r"stages\.adapt\.steps: a number expected \(got True\)"),
        ("data.crop=[on, 64]", r"data\.crop: a number expected"),
        ("stages.adapt.optimizer.lr=.inf", r"optimizer\.lr: .*finite.*\(got inf\)"),
        ("stages.adapt.refine.tether=null", "unknown refiner of this chain 'tether'.*confidence_threshold"),
        ("scale=small", r"^--set scale=small: .*choose one with --scale"),
        ("format=99", "format 99"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_choices(override, message):
    with pytest.raises(SegRefineryError, match=message):
        load_recipe("self_training", "small", [override])


def test_unknown_recipe_scale_and_file_are_named(tmp_path):
    with pytest.raises(SegRefineryError, match=r"unknown recipe 'self_trainng'.*Did you mean 'self_training'"):
        load_recipe("self_trainng")
    with pytest.raises(SegRefineryError, match=r"unknown scale.*'tiny'\. Choose one of: paper, small\."):
        load_recipe("self_training", "tiny")
    with pytest.raises(SegRefineryError, match=r"missing\.yaml"):
        load_recipe(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(SegRefineryError, match=r"bad\.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


def written(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\n{text}\n", encoding="utf-8")
    return path


def test_a_file_that_extends_itself_is_named_with_the_way_around(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "a", "extends: a.yaml")
    with pytest.raises(SegRefineryError, match=r"^a\.yaml: extends: .* itself: a\.yaml -> a\.yaml$"):
        load_recipe("a.yaml")
    written(tmp_path, "b", "extends: c.yaml")
    written(tmp_path, "c", f"extends: {tmp_path / 'b.yaml'}")
    with pytest.raises(SegRefineryError, match=r"^c\.yaml: extends: .* itself: b\.yaml -> c\.yaml -> .*b\.yaml$"):
        load_recipe("b.yaml")
    # a file may be called as the shipped recipe that it extends
    written(tmp_path, "self_training", "extends: self_training")
    assert list(load_recipe("self_training.yaml").stages) == ["source", "adapt"]


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_a_null_removes_a_stage_at_every_scale(scale, tmp_path):
    assert list(load_recipe("self_training", scale, ["stages.adapt=null"]).stages) == ["source"]
    assert list(load_recipe("oracle", scale).stages) == ["oracle"]
    own = "scales: {small: {stages: {adapt: {steps: 3}}}}"  # of a stage that is gone
    base = written(tmp_path, "base", f"extends: self_training\nstages: {{adapt: null}}\n{own}")
    assert list(load_recipe(base, scale).stages) == ["source"]
    # in a file that extends this one the stage may be there again, as a new one
    stage = "{kind: distillation, steps: 7}"
    again = load_recipe(written(tmp_path, "again", f"extends: {base}\nstages: {{adapt: {stage}}}"), scale)
    steps = {"paper": 7, "small": 300}[scale]  # that of every stage at scale small
    assert (again.stages["adapt"].kind, again.stages["adapt"].steps) == ("distillation", steps)


def test_a_null_of_a_scale_removes_what_the_recipe_says_also_where_what_it_extends_has_that_scale(tmp_path):
    sizes = "data: {crop: [64, 96]}\nwindow: [64, 96]"
    scales = "scales: {small: {window: null, target_data: {crop: null}, model: {options: null}}}"
    options = "model: {name: small, options: {width: 16}}\ntarget_data: {crop: [64, 96]}"
    base = written(tmp_path, "base", f"extends: self_training\n{sizes}\n{options}\n{scales}")
    for file in (base, written(tmp_path, "above", f"extends: {base}\nscales: {{small: {{data: {{batch: 2}}}}}}")):
        assert load_recipe(file).window == (64, 96)
        recipe = load_recipe(file, "small", ["model.name=small"])
        assert (recipe.window, recipe.model.options) == (None, {})
        assert recipe.target_data.crop == recipe.data.crop
    for name in ("hrda", "ir2f_hrda"):  # whose images are small there
        assert load_recipe(name, "small").window is None


def test_a_chain_may_say_that_it_replaces_another_where_there_is_none(tmp_path):
    chain = "{replace: true, masked_consistency: {}}"
    for overrides in (
        [f"stages.adapt.refine={chain}"],
        [f"stages.new={{kind: self_training, steps: 1, refine: {chain}}}"],
    ):
        stages = load_recipe("self_training", None, overrides).stages
        assert list(list(stages.values())[-1].chain) == ["masked_consistency"]
    file = written(
        tmp_path, "own", f"extends: self_training\nstages: {{new: {{kind: self_training, steps: 1, refine: {chain}}}}}"
    )
    assert list(load_recipe(file).stages["new"].chain) == ["masked_consistency"]
    unsure = written(tmp_path, "unsure", "extends: self_training\nstages: {adapt: {refine: {replace: maybe}}}")
    with pytest.raises(SegRefineryError, match=r"stages\.adapt\.refine\.replace: write true.*'maybe'"):
        load_recipe(unsure)


def test_a_scale_may_change_budgets_and_nothing_else(tmp_path):
    budget = "adapt: {steps: 3, optimizer: {lr: 1.0e-5}, teacher: {decay: 0.9}, crop: [64, 64]}"
    within = written(tmp_path, "within", f"extends: self_training\nscales: {{tiny: {{stages: {{{budget}}}}}}}")
    assert load_recipe(within, "tiny").stages["adapt"].steps == 3
    for change, key in [
        ("adapt: {mixing: cutmix}", "stages.adapt.mixing"),
        ("adapt: {sampling: rare_class}", "stages.adapt.sampling"),
        ("adapt: {labels: offline}", "stages.adapt.labels"),
        ("adapt: {statistics: both}", "stages.adapt.statistics"),
        ("adapt: {refine: {confidence_threshold: {portion: 0.3}}}", "stages.adapt.refine.confidence_threshold.portion"),
        ("adapt: {refine: {masked_consistency: {}}}", "stages.adapt.refine.masked_consistency"),
        ("source: {weights: {aux: 0.5}}", "stages.source.weights.aux"),
        ("adapt: null", "stages.adapt"),
    ]:
        file = written(tmp_path, "beyond", f"extends: self_training\nscales: {{tiny: {{stages: {{{change}}}}}}}")
        with pytest.raises(
            SegRefineryError, match=rf"beyond\.yaml, scale tiny: {re.escape(key)}: a scale changes budgets"
        ):
            load_recipe(file, "tiny")
    chain = "{refine: {masked_consistency: {}}}"
    turned_chain = "{refine: {replace: true, masked_consistency: {}, confidence_threshold: {classes: running}}}"
    scale = f"scales: {{tiny: {{stages: {{adapt: {turned_chain}}}}}}}"  # the same refiners in another order
    turned = written(tmp_path, "turned", f"extends: self_training\nstages: {{adapt: {chain}}}\n{scale}")
    with pytest.raises(SegRefineryError, match=r"scale tiny: stages\.adapt\.refine: a scale changes budgets"):
        load_recipe(turned, "tiny")
    # also of a scale that the recipe below has: what replaces a chain does so when it is laid over the recipe's
    small = f"scales: {{small: {{stages: {{adapt: {turned_chain}}}}}}}"
    turned = written(tmp_path, "small", f"extends: self_training\nstages: {{adapt: {chain}}}\n{small}")
    with pytest.raises(SegRefineryError, match=r"scale small: stages\.adapt\.refine: a scale changes budgets"):
        load_recipe(turned, "small")
    # whoever runs it may change anything
    assert load_recipe("self_training", "small", ["stages.adapt.mixing=cutmix"]).stages["adapt"].mixing == "cutmix"


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        ("deeplabv2_resnet101", "both"),
        ("hrda:deeplabv2_resnet101", "both"),
        ("small", "target"),
        ("efficientnet_lite1", "target"),
        ("hrda:efficientnet_lite0", "target"),
    ],
)
def test_what_a_stage_does_not_say_of_batch_norm_comes_with_its_network(network, wanted):
    chosen = [f"model.name={network}", "model.options={}"]
    assert load_recipe("dacs", "small", chosen).stages["adapt"].statistics == wanted
    # of a fresh start it is that stage's network
    fresh = ["stages.adapt.start=fresh", f"stages.adapt.model={{name: {network}}}"]
    assert load_recipe("dacs", None, fresh).stages["adapt"].statistics == wanted
    # what a recipe says holds with any network
    assert load_recipe("self_training", None, chosen).stages["adapt"].statistics == "target"
    assert load_recipe("dacs", None, [*chosen, "stages.adapt.statistics=chosen"]).stages["adapt"].statistics == "chosen"


def test_a_scale_says_of_every_stage_what_is_common(tmp_path):
    every, source = '"*": {steps: 7, optimizer: {lr: 1.0e-5}}', "source: {steps: 9, optimizer: {warmup: 3}}"
    scale = f"scales: {{tiny: {{stages: {{{every}, {source}}}}}}}"
    recipe = load_recipe(written(tmp_path, "tiny", f"extends: self_training\n{scale}"), "tiny")
    assert {name: stage.steps for name, stage in recipe.stages.items()} == {"source": 9, "adapt": 7}
    assert {stage.optimizer.lr for stage in recipe.stages.values()} == {1e-5}
    assert (recipe.stages["source"].optimizer.warmup, recipe.stages["adapt"].optimizer.warmup) == (3, 1500)


@pytest.mark.parametrize("name", recipe_names())
def test_a_fresh_network_learns_at_the_rates_of_the_source_at_scale_small(name):
    """At the rate of a network that is adapted, a new head is sure of nothing after 400 steps, and no label counts."""
    stages = load_recipe(name, "small").stages
    for stage in stages.values():
        if stage.start == "fresh":
            assert (stage.optimizer.lr, stage.optimizer.warmup) == (1e-3, 30)


def test_a_chain_is_laid_over_the_one_before_unless_it_says_replace(tmp_path):
    def chain(refine):
        file = written(tmp_path, "chain", f"extends: self_training\nstages: {{adapt: {{refine: {refine}}}}}")
        return list(load_recipe(file).stages["adapt"].refine)

    assert chain("{masked_consistency: {}}") == ["confidence_threshold", "masked_consistency"]
    assert chain("[masked_consistency]") == ["confidence_threshold", "masked_consistency"]
    assert chain("{replace: true, masked_consistency: {}}") == ["masked_consistency"]


def test_an_error_names_what_it_came_with_and_the_full_key(tmp_path):
    portion = "stages: {adapt: {refine: {confidence_threshold: {portion: 7}}}}"
    bad = written(tmp_path, "bad", f"extends: self_training\n{portion}")
    key = r"stages\.adapt\.refine\.confidence_threshold\.portion: .*\(got 7\)$"
    with pytest.raises(SegRefineryError, match=rf"^{bad}: {key}"):
        load_recipe(bad)
    with pytest.raises(SegRefineryError, match=rf"^{bad}: {key}"):
        load_recipe(written(tmp_path, "child", f"extends: {bad}"))
    with pytest.raises(SegRefineryError, match=rf"^--set stages\.adapt\.refine\.\S+=7: {key}"):
        load_recipe("self_training", "small", ["seed=1", "stages.adapt.refine.confidence_threshold.portion=7"])
    at_scale = written(tmp_path, "at_scale", f"extends: self_training\nscales: {{small: {{{portion}}}}}")
    with pytest.raises(SegRefineryError, match=rf"^{at_scale}, scale small: {key}"):
        load_recipe(at_scale, "small")
    with pytest.raises(SegRefineryError, match=r"^seed: .*\(got -1\)$"):
        load_recipe("self_training", seed=-1)
    with pytest.raises(SegRefineryError, match=r"^--set name=5: name: .*; --set data\.batch=no: data\.batch: [^;]*$"):
        load_recipe("self_training", "small", ["data.batch=no", "name=5"])
    wrong = ("stages.one.steps=2", "stages.two.steps=2")
    with pytest.raises(SegRefineryError, match=r"entropy_minimization; --set stages\.two.*entropy_minimization$"):
        load_recipe("self_training", overrides=wrong)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extends: nope", "extends: unknown recipe 'nope'"),
        ("extends: self_trainin", "extends: .*Did you mean 'self_training'"),
        ("extends: nowhere.yaml", r"extends: nowhere\.yaml: the recipe cannot be read"),
        ("extends: [self_training]", "extends: write the name"),
        ("extends: self_training\nscales: [small]", "scales: write a mapping"),
        (
            "extends: self_training\ndata: {crop: 5}\ntarget_data: {crop: 6}",
            r"data\.crop: .*5\); .*target_data\.crop: .*6\)$",
        ),
    ],
)
def test_a_mistake_in_a_file_names_the_file(line, message, tmp_path):
    bad = written(tmp_path, "bad", line)
    with pytest.raises(SegRefineryError, match=rf"^{bad}: {message}"):
        load_recipe(bad)


def test_accumulation_must_divide_the_batch_of_each_stage():
    nine = "stages.adapt.batch=9"
    with pytest.raises(
        SegRefineryError, match=r"accumulate is 2, but stages\.adapt\.batch is 9, .*to 1 or 3 or 9, or stages"
    ):
        load_recipe("self_training", "small", [nine, "training.accumulate=2"])
    assert load_recipe("self_training", "small", [nine, "data.batch=6", "training.accumulate=3"])
    # an oracle learns from target images
    with pytest.raises(SegRefineryError, match=r"target_data\.batch is 3"):
        load_recipe("oracle", "small", ["target_data.batch=3", "training.accumulate=2"])


@pytest.mark.parametrize("name", recipe_names())
def test_the_summary_of_a_recipe_is_a_short_sentence(name):
    summary = load_recipe(name).summary
    assert summary.endswith(".")
    assert len(summary) <= 115


def test_a_summary_is_the_first_sentence_in_one_line():
    about = "Ours (Doe et al. CVPR\n2020), eq. (8) at 0.5\n  of it. The rest."
    assert load_recipe("self_training", about=about).summary == "Ours (Doe et al. CVPR 2020), eq. (8) at 0.5 of it."
    assert load_recipe("self_training", about="").summary == ""


def test_a_refiner_can_be_added_and_switched_off_from_the_command_line():
    recipe = load_recipe("cpsl", "small", ["stages.adapt.refine.masked_consistency.block=8"])
    assert list(recipe.stages["adapt"].refine) == ["self_labeling", "masked_consistency"]
    recipe = load_recipe("self_training", "small", ["stages.adapt.refine.confidence_threshold=false"])
    assert recipe.stages["adapt"].refine == {}


def test_pixel_attention_without_the_stage_that_trains_it_says_what_to_write():
    added = "stages.adapt.refine.pixel_attention={weight: 0.005}"
    with pytest.raises(
        SegRefineryError, match=r"adapt\.refine\.pixel_attention needs a stage before it.*hands_on"
    ) as found:
        load_recipe("proda", "small", [added])
    _, _, line = str(found.value).partition("Add one: ")
    name, _, settings = line.partition(": ")
    assert yaml.safe_load(settings)["refine"]["pixel_attention"] == {"train": True}
    assert load_recipe("pixel_attention", "small").stages[name].hands_on == "refiners"
    # what the message says to write is enough
    recipe = load_recipe("proda", "small", [f"stages.{name}={settings}", added])
    assert list(recipe.stages) == ["source", "warmup", name, "adapt"]
    with pytest.raises(SegRefineryError, match=r"stages\.attention\.before: no other stage is called 'adpt'"):
        load_recipe("pixel_attention", "small", ["stages.attention.before=adpt"])
    # without a convolution there is nothing to train
    load_recipe("proda", "small", ["stages.adapt.refine.pixel_attention={kernel: 0}"])


def test_the_tiny_settings_of_the_tests_are_valid():
    load_recipe("self_training", "small", TINY)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("training: {choose: score}", "training.choose"),
        ("training: {on_collapse: stop}", "training.on_collapse"),
        ("training: {holdout: 0.2}", "training.holdout"),
        ("model: {start: some/model}", "model.start"),
        ("model: {from: some/model}", "model.start"),
        ("stages: {adapt: {strong: null}}", "stages.adapt.strong"),
    ],
)
def test_a_scale_does_not_change_what_a_run_starts_from_sees_or_ships(change, key, tmp_path):
    with pytest.raises(SegRefineryError, match=rf"scale tiny: {key}: a scale changes budgets"):
        load_recipe(written(tmp_path, "other", f"extends: self_training\nscales: {{tiny: {{{change}}}}}"), "tiny")


def test_a_scale_may_give_a_stage_another_network_with_the_statistics_it_has(tmp_path):
    scales = "scales: {tiny: {training: {clip_norm: 1, precision: bf16-mixed}, stages: {adapt: {model: {name: small}}}}"
    recipe = load_recipe(written(tmp_path, "within", f"extends: dacs\n{scales}}}"), "tiny")
    assert recipe.stages["adapt"].statistics == "target"


def test_a_scale_cannot_hide_behind_a_recipe_that_is_wrong_without_it(tmp_path):
    sizes = "data: {crop: [64, 64]}\ntarget_data: {crop: [32, 32]}"
    scales = "scales: {tiny: {data: {crop: [32, 32]}, stages: {adapt: {mixing: cutmix}}}}"
    with pytest.raises(SegRefineryError, match=r"wrong without it: stages\.adapt mixes .* data\.crop is \(64, 64\)"):
        load_recipe(written(tmp_path, "hidden", f"extends: self_training\n{sizes}\n{scales}"), "tiny")
    with pytest.raises(SegRefineryError, match=r"scales\.paper: that is the recipe without a scale"):
        load_recipe(written(tmp_path, "twice", "extends: self_training\nscales: {paper: {seed: 3}}"))


@pytest.mark.parametrize("below", ["", "strong: {jitter: 0.1}"])
def test_a_strong_view_is_gone_where_a_recipe_says_so(below, tmp_path):
    base = written(tmp_path, "base", f"extends: self_training\nstages: {{adapt: {{{below}}}}}")
    above = written(tmp_path, "above", f"extends: {base}\nstages: {{adapt: {{strong: null}}}}")
    assert load_recipe(above, "small").stages["adapt"].strong is None


def test_an_assignment_that_an_option_would_undo_is_refused():
    with pytest.raises(SegRefineryError, match=r"^--set seed=5: --seed says 3; leave one"):
        load_recipe("self_training", "small", ["seed=5"], seed=3)
    assert load_recipe("self_training", "small", ["seed=5"], seed=None).seed == 5


@pytest.mark.parametrize(
    ("override", "option", "value"),
    [("model.from=a", "--from", "b"), ("training.on_collapse=warn", "--on-collapse", "stop")],
)
def test_an_assignment_that_an_option_makes_too_is_refused(override, option, value, monkeypatch, capsys, tmp_path):
    given = ("-s", DAY, "-t", NIGHT, "-o", tmp_path / "run", "--set", override, option, value)
    code, _, complaint = command(monkeypatch, capsys, "adapt", *given)
    assert (code, complaint) == (2, f"error: --set {override}: {option} says {value}; leave one of the two away\n")
    with pytest.raises(SegRefineryError, match=r"^--set model.from=a: --from says b"):
        api.check(DAY, NIGHT, start="b", overrides=["model.from=a"])


def test_a_field_of_several_kinds_is_one_mistake():
    with pytest.raises(SegRefineryError) as error:
        load_recipe("self_training", overrides=["data.cache=5"])
    assert str(error.value) == "--set data.cache=5: data.cache: Input should be a valid boolean or 'disk' (got 5)"


def test_a_recipe_that_is_there_already_takes_assignments_and_data():
    first = load_recipe("self_training", "small", ["seed=5"], target="a", source="b")
    second = load_recipe(first, None, ["stages.adapt.steps=7"], target="c")
    assert (second.seed, second.source, second.target, second.stages["adapt"].steps) == (5, "b", "c", 7)
    assert load_recipe(first) == first


def test_a_scale_that_a_file_names_is_not_passed_over(tmp_path):
    file = written(tmp_path, "mine", "extends: self_training\nscale: small")
    with pytest.raises(SegRefineryError, match=rf"^{file}: scale: .*--scale small"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ("[{tether: {}, prototypes: {}}]", r"each refiner is a name or"),
        ("[[tether]]", r"each refiner is a name or .*\['tether'\]"),
        ("[tether, {tether: {weight: 2}}]", "'tether' occurs twice"),
        ("{tether: null}", r"stages\.adapt\.refine\.tether: null takes a refiner out.*write tether: \{\}"),
    ],
)
def test_no_refiner_of_a_chain_is_lost(chain, said, tmp_path):
    file = written(tmp_path, "mine", f"extends: self_training\nstages: {{adapt: {{refine: {chain}}}}}")
    with pytest.raises(SegRefineryError, match=rf"^{file}: .*{said}"):
        load_recipe(file)


def test_an_empty_entry_of_a_list_is_a_refiner_as_it_is(tmp_path):
    file = written(tmp_path, "mine", "extends: self_training\nstages: {adapt: {refine: [{tether: }, entropy_mixture]}}")
    assert list(load_recipe(file).stages["adapt"].chain) == ["confidence_threshold", "tether", "entropy_mixture"]


def test_a_null_takes_a_refiner_out():
    taken = load_recipe("self_training", "small", ["stages.adapt.refine.confidence_threshold=null"])
    assert not taken.stages["adapt"].chain


def test_what_is_no_recipe_and_no_list_of_settings_is_said():
    with pytest.raises(SegRefineryError, match="scale: the name of one"):
        load_recipe("self_training", ["small"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SegRefineryError, match="recipe: a name or the path"):
        load_recipe(None, "small")  # pyright: ignore[reportArgumentType]
    for overrides in ("stages.adapt.steps=3", {"stages.adapt.steps": 3}, [5], None):
        with pytest.raises(SegRefineryError, match="overrides: a list of"):
            load_recipe("self_training", None, overrides)  # pyright: ignore[reportArgumentType]


def test_a_stage_that_is_gone_is_not_said_whole():
    stages = {"source": {"steps": 3}, "adapt": {"steps": 4, "refine": {}}}
    changed = {"adapt": {"steps": 5, "refine": {"tether": {"weight": 1.0}}}}
    assert list(differences(stages, changed, "stages")) == [
        "stages.source is gone",
        "stages.adapt.steps 4, now 5",
        "stages.adapt.refine.tether is new",
    ]
