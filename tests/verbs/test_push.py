"""A model on the hub: what lies there, what its card says, and that it is read again. The hub is a folder here."""

import shutil

import huggingface_hub
import pytest
import yaml

import segrefinery
from models.foreign.tiny import CLASSES, saved
from runs import TEST, command, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.model import ModelConfig, load
from segrefinery.interchange.card import About, card, named
from segrefinery.models import ModelSettings
from segrefinery.models.licence import DINOV3, MIT, licence_of
from segrefinery.models.start import read_start
from segrefinery.models.weights import read_config, save_network


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's client, which keeps what it is given in a folder -> that folder."""
    folder = tmp_path / "hub"

    class Client:
        def create_repo(self, repo_id, *, repo_type, private, exist_ok):
            assert (repo_type, exist_ok) == ("model", True)
            if repo_id.startswith("others/"):
                raise OSError("403 Forbidden\nand a page of HTML")
            return f"https://hub.example/{repo_id}"

        def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
            shutil.copytree(folder_path, folder / repo_id, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("push") / "run")


def test_a_model_of_ours(hub, run, monkeypatch, capsys):
    code, said, error = command(monkeypatch, capsys, "push", run, "me/night")
    assert (code, error) == (0, "")
    assert "https://hub.example/me/night: README.md, config.json, model.safetensors written, for segrefinery" in said
    there = hub / "me/night"
    text = (there / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["library_name"]) == ("apache-2.0", "segrefinery")
    results = yaml.safe_load((run / "results.json").read_text())
    for part in (
        "scenes:day,count=6,size=32x64", "scenes:night,count=6,size=32x64", f"Measured on {TEST}", "self_training",
        f"| this model | {100 * results['adapted']['miou']:.1f} |", "Verdict, found without labels", "hf:me/night",
    ):  # fmt: skip
        assert part in text
    assert load(there, "cpu").space == load(run, "cpu").space
    start = read_start(there)
    assert all(start.state[name].equal(tensor) for name, tensor in load(run, "cpu").network.state_dict().items())


def of_transformers(folder):
    """A run's model folder without the run: a network of transformers that knows its target."""
    saved(folder / "theirs", "segformer", {"do_normalize": True, "image_mean": [0.4] * 3, "image_std": [0.2] * 3})
    network, _ = read_start(folder / "theirs").build(("road", "car", "sky"))
    own = {
        "model": read_start(folder / "theirs").network, "space": "three", "classes": ("road", "car", "sky"),
        "colors": ((0, 0, 0), (1, 1, 1), (2, 2, 2)), "data": {"short_side": 32},
        "trained_on": {"start": str(folder / "theirs"), "target": "scenes:night,count=2,size=32x64"},
    }  # fmt: skip
    save_network(folder / "model", network, ModelConfig.model_validate(own))
    return folder / "model"


def test_a_model_of_transformers_goes_as_theirs_and_names_no_folder(hub, tmp_path):
    pushed = segrefinery.push(of_transformers(tmp_path), "me/town")
    assert (pushed.format, "model.safetensors" in pushed.files) == ("hf", True)
    assert any("equal labels" in line for line in pushed.notes)
    there = hub / "me/town"
    assert read_start(there).classes == ("road", "car", "sky")
    for file in there.iterdir():
        if file.suffix != ".safetensors":
            assert str(tmp_path) not in file.read_text()
    assert "that of theirs, which it started from" in (there / "README.md").read_text()


def test_a_folder_of_ours_names_no_folder_of_the_machine(hub, tmp_path):
    segrefinery.push(of_transformers(tmp_path), "me/plain", format="ours", licence="mit")
    config = read_config(hub / "me/plain/config.json", ModelConfig)
    assert config.trained_on.start == "theirs"
    assert yaml.safe_load((hub / "me/plain/README.md").read_text().split("---")[1])["license"] == "mit"


def in_the_cache(hub, cache):
    """What was pushed, as the hub's own client keeps it once it is fetched."""
    for folder in hub.glob("*/*"):
        place = cache / f"models--{folder.parent.name}--{folder.name}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_what_was_pushed_is_adapted_from_the_hub(hub, run, tmp_path, monkeypatch):
    """Read by the hub's real client from its cache, without a network."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = of_transformers(tmp_path)
    smp.Unet("resnet18", encoder_weights=None, classes=3).save_pretrained(tmp_path / "unet")
    start = read_start(tmp_path / "unet")
    start.classes = CLASSES
    own = {
        "model": start.network, "space": "three", "classes": start.classes, "colors": ((0, 0, 0),) * 3,
        "data": {"short_side": 32, "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3},
        "trained_on": {"target": "scenes:night,count=2,size=32x64"},
    }  # fmt: skip
    save_network(tmp_path / "unet_run", start.build(start.classes)[0], ModelConfig.model_validate(own))
    for name, folder in (("me/ours", run), ("me/hf", theirs), ("me/smp", tmp_path / "unet_run")):
        segrefinery.push(folder, name)
    in_the_cache(hub, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ours, hf, unet = (read_start(f"hf:me/{name}") for name in ("ours", "hf", "smp"))
    for start in (ours, hf, unet):
        start.build(start.classes)
    assert ours.network.name == "small"
    assert (hf.network.name, hf.classes, hf.pixel_mean) == ("transformers:segformer", CLASSES, (0.485, 0.456, 0.406))
    assert (unet.network.name, unet.classes, unet.pixel_mean) == ("smp:unet/resnet18", CLASSES, (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("repository", "match"),
    [
        ("night", "ORG/NAME"),
        ("others/night", r"did not take it \(403 Forbidden\); .*log in with `hf auth login`"),
        ("me/night--town", r"takes no such name \(Cannot have -- or"),
        ("me/night.git", "takes no such name"),
        ("me/" + "x" * 120, "takes no such name"),
    ],
)
def test_what_the_hub_does_not_take_is_one_line(hub, run, monkeypatch, capsys, repository, match):
    with pytest.raises(SegRefineryError, match=match):
        segrefinery.push(run, repository)
    code, _, error = command(monkeypatch, capsys, "push", run, repository)
    assert (code, error.count("\n")) == (2, 1)
    assert not hub.exists()


def of_stage(run, stage, **changes):
    config = read_config(run / "model/config.json", ModelConfig)
    return config.model_copy(update={"trained_on": config.trained_on.model_copy(update={"stage": stage, **changes})})


SCORES = {"miou": 0.25, "pixel_accuracy": 0.5}
BETTER = {"miou": 0.75, "pixel_accuracy": 0.8}
RECIPE = {"stages": {"source": {"kind": "supervised"}, "adapt": {"kind": "self_training"}}}


@pytest.mark.parametrize(
    ("stage", "sentence"), [("start", "as it was brought and not adapted"), ("source", "trained on labelled source")]
)
def test_a_card_of_a_model_that_is_not_adapted_says_so(run, stage, sentence):
    """As a run ships it that calls none of its own better."""
    results = {
        "verdict": {"word": "no evidence", "chosen": stage},
        "source_only": {**SCORES, "stage": stage}, "adapted": {**SCORES, "stage": stage},
    }  # fmt: skip
    text = card(About("me/night", "ours", of_stage(run, stage), "mit", RECIPE, results))
    assert f"{sentence}" in text
    assert "not adapted: of the adapted models none was found better." in text
    assert "adapted with SegRefinery" not in text
    assert "Verdict of the run's adapted model, found without labels: **no evidence" in text
    assert text.count("| 25.0 | 50.0 |") == 1
    assert "| this model | 25.0 | 50.0 |" in text


def test_a_card_tells_which_of_two_models_it_is_of(run):
    results = {"source_only": {**SCORES, "stage": "source"}, "adapted": {**BETTER, "stage": "adapt-2"}}
    before, after = (
        card(About("me/night", "ours", of_stage(run, stage), "mit", RECIPE, results)) for stage in ("source", "adapt-2")
    )
    assert "| this model | 25.0 | 50.0 |" in before
    assert "| as the run adapted it | 75.0 | 80.0 |" in before
    assert "| before adaptation | 25.0 | 50.0 |" in after
    assert "| this model | 75.0 | 80.0 |" in after
    assert "adapted with SegRefinery to images without labels." in after


def test_a_card_has_what_labels_that_were_held_out_say(run):
    model = {"interval": [0.5, 0.9], "difference": None, "difference_interval": None}
    models = [{"name": "start", "miou": 0.6, **model}, {"name": "adapt", "miou": 0.7, **model}]
    results = {"held_out": {"images": 5, "models": models}}
    text = card(About("me/night", "ours", of_stage(run, "adapt", labels="folder:few"), "mit", RECIPE, results))
    assert "images without labels, and to a few with them." in text
    assert "On 5 labelled target images that were held out from training: start 60.0 % mIoU" in text
    assert "this model 70.0 % mIoU (95 % interval 50.0 to 90.0)." in text


@pytest.mark.parametrize(
    ("licence", "front"),
    [("CC-BY-4.0", {"license": "cc-by-4.0"}), ("Acme-1", {"license": "other", "license_name": "acme-1"}),
     ("ask us", {"license": "other"})],
)  # fmt: skip
def test_a_licence_is_one_that_the_hub_takes(run, licence, front):
    text = card(About("me/night", "ours", of_stage(run, "adapt"), licence, {}, {}))
    found = yaml.safe_load(text.split("---")[1])
    assert {name: value for name, value in found.items() if name.startswith("license")} == front


def test_weights_of_the_machine_are_not_named_by_their_folder(hub, run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "model")
    config = read_config(tmp_path / "model/config.json", ModelConfig)
    network = config.model.model_copy(update={"weights": str(tmp_path / "secret/best.safetensors")})
    text = config.model_copy(update={"model": network}).model_dump_json()
    (tmp_path / "model/config.json").write_text(text)
    segrefinery.push(tmp_path / "model", "me/night")
    assert read_config(hub / "me/night/config.json", ModelConfig).model.weights == "best.safetensors"


def test_a_folder_without_a_model(tmp_path, hub):
    with pytest.raises(SegRefineryError, match="holds no trained model"):
        segrefinery.push(tmp_path, "me/night")


@pytest.mark.parametrize(
    ("name", "weights", "licence"),
    [
        ("small", None, "Apache-2.0"),
        ("segformer_b0", None, MIT),
        ("segformer_b0", "none", "Apache-2.0"),
        ("hrda:daformer_b5", None, MIT),
        ("hrda:daformer_b5", "none", "Apache-2.0"),
        ("daformer:resnet18", None, "apache-2.0"),
        ("daformer:vit_small_patch16_dinov3.lvd1689m", None, DINOV3),
        ("vit:vit_small_patch16_dinov3.lvd1689m", None, DINOV3),
        ("dinov2_base", None, "Apache-2.0"),
        ("small", "somewhere.safetensors", "not known: see where they come from"),
    ],
)
def test_licences(name, weights, licence):
    assert licence_of(ModelSettings(name=name, weights=weights)) == licence


def test_data_by_name():
    assert named("folder:/home/me/town/dataset.yaml@train") == "folder:dataset.yaml@train"
    assert named("/home/me/camera") == "camera"
    assert named("2 of coco:/home/me/a.json + gta5:/data/gta5") == "2 of coco:a.json + gta5:gta5"
    assert named("hf:org/model") == "hf:org/model"
    assert named(None) == ""


def test_a_card_says_how_many_bands_are_read(run):
    config = read_config(run / "model/config.json", ModelConfig)
    five = config.data.model_copy(update={"pixel_mean": (0.5,) * 5, "pixel_std": (0.25,) * 5})
    for data, said in ((config.data, "RGB, "), (five, "5 bands, ")):
        text = card(About("me/night", "ours", config.model_copy(update={"data": data}), "mit", {}, {}))
        assert text.partition("## Images")[2].strip().startswith(said)
