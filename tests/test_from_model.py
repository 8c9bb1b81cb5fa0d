"""A model that a user has already: adapted with its source and without, whatever library made it."""

import json
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import segrefinery as api
from foreign_mit import ConvolvedHead, Network, SegFormerHead, numbered
from goes_back import goes_back
from models.foreign.tiny import CLASSES, saved, with_statistics
from runs import DAY, NIGHT, TEST, TINY, command, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.models import ModelSettings, build_model, wrap
from segrefinery.models.start import read_start
from segrefinery.verbs.start import source_free_recipes

SHORT = ("stages.source.steps=2", "stages.adapt.steps=2")
NAMED = "classes=[road, car, sky]"
SMALL = (NAMED, "stages.adapt.steps=2")


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs ``segrefinery adapt`` as a user does -> exit code, what it said, what it complained of."""

    def run(model, output, *more, source=DAY, overrides=("stages.adapt.steps=2",), recipe="self_training"):
        given = ["adapt", "-r", recipe, "--from", model, "-t", NIGHT, "-e", TEST, "-o", output, "--scale", "small"]
        given += ["-s", source] if source else []
        sets = (*TINY, *overrides)
        capsys.readouterr()  # what the libraries said while they saved
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that two steps on six images never saw
            return command(monkeypatch, capsys, *given, *(f"--set={each}" for each in sets), *more)

    return run


def of_transformers(family):
    def save(folder):
        statistics = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}
        saved(folder, family, statistics)
        return folder, ()

    return save


def of_smp(folder):
    import segmentation_models_pytorch as smp

    with_statistics(smp.Unet("resnet18", encoder_weights=None, classes=3)).save_pretrained(folder)
    return folder, ("model.classes=[road, car, sky]",)


def of_lightning(folder):
    import segmentation_models_pytorch as smp

    module = with_statistics(smp.FPN("resnet18", encoder_weights=None, classes=3))
    state = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, folder / "last.ckpt")
    changes = ("model.name=smp:fpn/resnet18", "model.options={}", "model.classes=[road, car, sky]")
    return folder / "last.ckpt", changes


def of_torchvision(folder):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    module = with_statistics(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))
    torch.save(module.state_dict(), folder / "lraspp.pth")
    changes = (
        "model.name=torchvision:lraspp_mobilenet_v3_large", "model.options={}", "model.classes=[road, car, sky]"
    )  # fmt: skip
    return folder / "lraspp.pth", changes


def of_mmsegmentation(head, spelling=dict):
    def save(folder):
        torch.manual_seed(0)
        state = spelling(with_statistics(Network(head(3))).state_dict())
        torch.save({"state_dict": state, "meta": {"CLASSES": list(CLASSES)}}, folder / "iter.pth")
        return folder / "iter.pth", ()

    return save


FAMILIES = {
    **{family: of_transformers(family) for family in ("segformer", "upernet", "beit", "dpt", "mobilenet_v2")},
    "smp": of_smp,
    "lightning": of_lightning,
    "torchvision": of_torchvision,
    "mmsegmentation": of_mmsegmentation(SegFormerHead),
    "mmsegmentation's head": of_mmsegmentation(ConvolvedHead, numbered),
}


FILES = ("lightning", "torchvision", "mmsegmentation", "mmsegmentation's head")
"""Families that have no loader of folders."""


@pytest.mark.parametrize("source", [DAY, None], ids=["with its source", "without"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family_is_adapted(tmp_path, call, family, source):
    (tmp_path / "theirs").mkdir()
    model, changes = FAMILIES[family](tmp_path / "theirs")
    run = tmp_path / "run"
    code, said, error = call(model, run, source=source, overrides=(*SMALL, *changes))
    assert code == 0
    assert error == ""
    assert "source: falls away" in said
    assert "verdict: " in said
    assert not (run / "stages" / "source").exists()
    results = json.loads((run / "results.json").read_text())
    assert results["source_only"]["stage"] == "start"
    assert results["adapted"]["stage"] == "adapt"
    # what is kept as source-only is what the user brought, and what is shipped has learned
    network = read_start(model, None if changes == () or family == "smp" else network_of(changes)).network
    kept = api.load(run / "source_model")
    assert (kept.space.classes, kept.data.short_side) == (CLASSES, 32)
    before, after = (load_file(run / part / "model.safetensors") for part in ("source_model", "model"))
    assert before.keys() == after.keys() == build_model(network, 3).state_dict().keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    if source is None and family not in FILES:
        goes_back(run, tmp_path / "back", family)


def network_of(changes):
    return ModelSettings(name=changes[0].removeprefix("model.name="))


def test_the_kept_model_is_the_one_that_was_brought(tmp_path, call):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    assert call(theirs, tmp_path / "run", overrides=SMALL)[0] == 0
    brought, _ = read_start(theirs).build(CLASSES)
    kept = load_file(tmp_path / "run/source_model/model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in brought.state_dict().items())
    # images are read with the model's statistics, then and later
    for part in ("source_model", "model"):
        data = api.load(tmp_path / "run" / part).data
        assert (data.pixel_mean, data.pixel_std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_a_model_of_ours_goes_on(tmp_path, call):
    first = tiny_run(tmp_path / "first", "source_only")
    assert call(first, tmp_path / "second")[0] == 0
    before, kept = (load_file(folder / "source_model/model.safetensors") for folder in (first, tmp_path / "second"))
    assert all(torch.equal(before[name], kept[name]) for name in before)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (first, tmp_path / "second"))
    assert one["source_only"]["miou"] == two["source_only"]["miou"]


def test_without_a_source_all_classes_of_the_model_stay(tmp_path, call):
    theirs = tmp_path / "theirs"
    saved(theirs, "segformer", labels=("road", "zebra", "sky"))
    code, said, _ = call(theirs, tmp_path / "run", source=None)
    assert code == 0
    assert "not scored, for no label of the evaluation is one: zebra" in said
    assert api.load(tmp_path / "run").space.classes == ("road", "zebra", "sky")
    scores = json.loads((tmp_path / "run/results.json").read_text())["source_only"]
    assert scores["iou"]["zebra"] is None
    known = [value for value in scores["iou"].values() if value is not None]
    assert scores["miou"] == pytest.approx(sum(known) / len(known))


def test_a_new_class_is_said_and_learned_from_the_source(tmp_path, call):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    new = ("classes=[road, car, person]", "stages.adapt.steps=2")
    code, said, _ = call(theirs, tmp_path / "run", overrides=new)
    assert code == 0
    assert "has no person: these rows of its classifier are new" in said
    assert "left out of its classifier: sky" in said
    code, _, error = call(theirs, tmp_path / "free", source=None, overrides=new)
    assert code == 2
    assert re.search(r"has no class person.*--source", error)


def test_a_new_class_is_not_predicted_before_it_is_learned(tmp_path):
    theirs, _ = FAMILIES["segformer"](tmp_path)
    network, new = read_start(theirs).build(("road", "zebra", "car", "sky"))
    assert new == ["zebra"]
    logits = network.eval()(torch.rand(1, 3, 64, 64)).logits
    assert (logits.argmax(dim=1) == 1).float().mean() < 0.5


def test_runs_from_other_models_share_nothing(tmp_path, call):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    run, shared = tmp_path / "run", tmp_path / "shared"
    assert call(theirs, run, f"--reuse={shared}", overrides=SMALL)[0] == 0
    assert call(theirs, run, "--resume", overrides=SMALL)[0] == 0
    code, said, _ = call(theirs, tmp_path / "again", f"--reuse={shared}", overrides=SMALL)
    assert (code, "taken from" in said) == (0, True)
    tensors = load_file(theirs / "model.safetensors")
    name = next(name for name in tensors if name.endswith("classifier.bias"))
    save_file({**tensors, name: tensors[name] + 1}, theirs / "model.safetensors", metadata={"format": "pt"})
    code, _, error = call(theirs, run, "--resume", overrides=SMALL)
    assert code == 2
    assert "changed since the run began: the model it starts from" in error
    code, said, _ = call(theirs, tmp_path / "other", f"--reuse={shared}", overrides=SMALL)
    assert (code, "taken from" in said) == (0, False)


def test_a_fresh_start_is_the_model_and_a_teaching_stage_teaches(tmp_path, call):
    theirs, _ = FAMILIES["upernet"](tmp_path / "theirs")
    refine = "stages.adapt.refine.implicit_rectification={queries: 64, hidden: 8}"
    taught = "stages.source.refine={implicit_rectification: {queries: 64, hidden: 8}}"
    overrides = (*SMALL, "stages.adapt.start=fresh", "stages.source.steps=2", taught, refine)
    code, said, error = call(theirs, tmp_path / "run", overrides=overrides)
    assert (code, error) == (0, "")
    assert "source: trains its refiners alone (implicit_rectification)" in said
    assert "adapt: starts from" in said
    assert (tmp_path / "run/stages/source/result.pt").exists()
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert list(results["stages"]) == ["start", "adapt"]


@pytest.mark.parametrize("recipe", ["source_free", "entropy_minimization"])
def test_the_recipes_without_a_source(tmp_path, call, recipe):
    (tmp_path / "theirs").mkdir()
    model, changes = of_smp(tmp_path / "theirs")
    code, said, error = call(model, tmp_path / "run", source=None, recipe=recipe, overrides=(*SMALL, *changes))
    assert (code, error) == (0, "")
    assert "verdict: " in said
    assert recipe in source_free_recipes()


# -- a module in Python ------------------------------------------------------------------------------------------------


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 3, 1))


@pytest.mark.parametrize("source", [DAY, None], ids=["with its source", "without"])
def test_a_wrapped_module_is_adapted_and_loaded_again(tmp_path, source):
    start = wrap(module(), 3)
    overrides = (*TINY, *SHORT, NAMED, "model.classes=[road, car, sky]")
    run = api.adapt(
        "self_training", source, NIGHT, tmp_path / "run", start=start, evaluation=TEST, scale="small",
        overrides=overrides,
    )  # fmt: skip
    with pytest.raises(SegRefineryError, match=r"wrapped:Sequential.*load\(run, network="):
        api.load(run)
    kept = api.load(run / "source_model", network=wrap(module(), 3))
    assert all(torch.equal(kept.network.state_dict()[name], each) for name, each in start.state_dict().items())
    adapted = api.load(run, network=start)
    assert not torch.equal(adapted.network.state_dict()["module.0.weight"], start.state_dict()["module.0.weight"])
    with pytest.raises(SegRefineryError, match=r"a Python module.*start=module"):
        api.adapt(run / "recipe.yaml", source, NIGHT, run, resume=True)


def test_a_plain_module_asks_to_be_wrapped(tmp_path):
    with pytest.raises(SegRefineryError, match=r"Sequential is a plain module; give segrefinery\.models\.wrap"):
        api.adapt("self_training", DAY, NIGHT, tmp_path / "run", start=module())


def test_a_wrapped_module_keeps_its_classes(tmp_path):
    overrides = (*TINY, *SHORT, "classes=[road, sky]", "model.classes=[road, car, sky]")
    with pytest.raises(SegRefineryError, match=r"a wrapped module keeps its classes \(road, car, sky\).*road, sky"):
        api.adapt("self_training", DAY, NIGHT, tmp_path / "run", start=wrap(module(), 3), overrides=overrides)


# -- what goes wrong ---------------------------------------------------------------------------------------------------

REFUSED = {
    "nothing at all": ({}, ("", None), "no such model"),
    "no names of classes": ({"labels": ("LABEL_0", "LABEL_1", "LABEL_2")}, ("theirs", DAY), r"model\.classes"),
    "no names, no source": ({"labels": ("LABEL_0", "LABEL_1", "LABEL_2")}, ("theirs", None), r"model\.classes"),
    "no class in common": ({"labels": ("liver", "heart", "bone")}, ("theirs", DAY), "none of its classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_does_not_go_is_one_line(tmp_path, call, case):
    options, (name, source), match = REFUSED[case]
    saved(tmp_path / "theirs", "segformer", **options)
    code, _, error = call(tmp_path / (name or "nowhere"), tmp_path / "run", source=source)
    assert code == 2
    assert re.search(match, error)
    assert error.count("\n") == 1


class Evil:
    def __reduce__(self):
        return open, ("pwned", "w")


def evil(folder):
    torch.save({"state_dict": Evil()}, folder / "evil.pth")
    return folder / "evil.pth"


def evil_folder(folder):
    saved(folder, "segformer")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    return folder


def half(folder):
    torch.save(build_model(ModelSettings(name="small"), 3).state_dict(), folder / "net.pth")
    whole = (folder / "net.pth").read_bytes()
    (folder / "net.pth").write_bytes(whole[: len(whole) // 2])
    return folder / "net.pth"


def nameless(folder):
    saved(folder, "segformer")
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


DAMAGED = {
    "a pickle that runs code": (evil, r"evil\.pth: .*could run code, so it was not loaded\. Save its state_dict alone"),
    "one in a folder": (evil_folder, r"theirs: .*could run code, so they were not loaded; save them anew as"),
    "half a download": (half, r"net\.pth: is cut short, as by half a download; fetch the file again"),
    "no id2label": (nameless, r"theirs: does not say what its 3 classes are; name them .*--set 'model\.classes="),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_cannot_be_read_is_one_line_before_any_training(tmp_path, call, monkeypatch, case):
    make, match = DAMAGED[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    code, _, error = call(make(tmp_path / "theirs"), tmp_path / "run", source=None)
    assert code == 2
    assert re.search(match, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_one_class_in_common_is_enough_and_the_others_are_said(tmp_path, call):
    saved(tmp_path / "theirs", "segformer", labels=("road", "heart", "bone"))
    code, said, error = call(tmp_path / "theirs", tmp_path / "run", overrides=SMALL)
    assert (code, error) == (0, "")
    assert "not in the data, so left out of its classifier: heart, bone" in said
    assert "has no car, sky: these rows of its classifier are new" in said


def test_labels_that_are_scored_too_are_refused_and_those_of_the_target_are_said(tmp_path, call):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    code, _, error = call(theirs, tmp_path / "run", "--labels", TEST)
    assert code == 2
    assert re.search(r"labels: is also in the evaluation set.* as 3 of the 3 labelled images are.*out of --eval", error)
    assert error.count("\n") == 1
    code, said, _ = call(theirs, tmp_path / "run", "--labels", "scenes:night,count=2,size=32x64", overrides=SMALL)
    assert code == 0
    assert "2 of the 2 labelled images are also among the target's, where they are seen without their labels" in said


def test_another_network_is_named_beside_the_file(tmp_path, call):
    torch.save(build_model(ModelSettings(name="small"), 3).state_dict(), tmp_path / "net.pth")
    overrides = ("model.name=smp:unet/resnet18", "model.options={}")
    code, _, error = call(tmp_path / "net.pth", tmp_path / "run", overrides=overrides)
    assert code == 2
    assert re.search(r"net\.pth as smp:unet/resnet18: the weights do not fit.*model\.name", error)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("prn", r"stages\.adapt: refinement_network learns from the source"),
        ("pixel_attention", r"stages\.attention: it trains on labelled source images"),
        ("advent", "it aligns the target with source images"),
        ("self_training", None),
    ],
)
def test_who_needs_the_source_says_so_and_who_does_not(tmp_path, call, recipe, reason):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    overrides = (NAMED,) if reason else SMALL
    code, _, error = call(theirs, tmp_path / "run", source=None, recipe=recipe, overrides=overrides)
    assert code == (2 if reason else 0)
    if reason:
        assert re.search(f"{reason}; name labelled images with --source, or take a recipe that does without: ", error)
        assert "self_training" in error


def test_a_source_that_only_trains_has_nothing_to_do(tmp_path, call):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    code, _, error = call(theirs, tmp_path / "run", recipe="source_only", overrides=())
    assert code == 2
    assert "would train on the source alone" in error


def test_neither_source_nor_model_is_an_error(tmp_path):
    with pytest.raises(SegRefineryError, match=r"--source, or a trained model to adapt with --from"):
        api.adapt("self_training", None, NIGHT, tmp_path / "run")


def test_a_run_whose_model_is_gone_is_not_adapted_from_its_source_only_model(tmp_path):
    run = tmp_path / "run"
    for name, content in (("recipe.yaml", ""), ("results.json", '{"verdict": {}}'), ("source_model/config.json", "{}")):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    with pytest.raises(SegRefineryError, match=r"run/model/config\.json: is gone"):
        api.adapt("source_free", None, NIGHT, tmp_path / "out", start=run)


def test_names_of_classes_need_a_model(tmp_path):
    with pytest.raises(SegRefineryError, match=r"model.*name that too, as from"):
        tiny_run(tmp_path / "run", overrides=("model.classes=[road, car]",))


def test_as_many_names_as_classes(tmp_path, call):
    theirs, _ = FAMILIES["segformer"](tmp_path / "theirs")
    code, _, error = call(theirs, tmp_path / "run", overrides=("model.classes=[road, car]",))
    assert code == 2
    assert re.search(r"model\.classes: names 2 classes, and .* has 3", error)
