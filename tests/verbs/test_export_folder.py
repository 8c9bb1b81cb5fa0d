"""A model goes back to the library that it came from: its own loader reads the folder, and it predicts the same."""

import pytest

import segrefinery
from goes_back import goes_back
from models.foreign.tiny import CLASSES, saved, with_statistics
from runs import DAY, NIGHT, TEST, TINY, command, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.models.start import read_start

pytest.importorskip("transformers")
smp = pytest.importorskip("segmentation_models_pytorch")

STATISTICS = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}
SHORT = ("classes=[road, car, sky]", "stages.adapt.steps=2")


def adapted(folder, model, *overrides):
    """A run of two steps from a model."""
    return segrefinery.adapt(
        "self_training", None, NIGHT, folder, start=model, scale="small", overrides=(*TINY, *SHORT, *overrides)
    )


def test_blue_first_goes_back(tmp_path):
    saved(tmp_path / "theirs", "mobilevit", {"do_flip_channel_order": True})
    goes_back(adapted(tmp_path / "run", tmp_path / "theirs"), tmp_path / "back", "mobilevit")


def test_what_came_back_starts_again(tmp_path):
    saved(tmp_path / "theirs", "segformer", STATISTICS)
    run = adapted(tmp_path / "run", tmp_path / "theirs", "classes=[car, road]")
    segrefinery.export(run, tmp_path / "back", "hf", check=TEST)
    again = read_start(tmp_path / "back")
    assert again.classes == ("car", "road")
    assert (again.pixel_mean, again.pixel_std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_our_segformer_is_theirs(tmp_path):
    overrides = ("model.name=segformer_b0", "model.weights=none", "model.options={auxiliary: true}")
    run = tiny_run(tmp_path / "run", "source_only", (*overrides, "stages.source.steps=1"))
    goes_back(run, tmp_path / "back", "segformer")


def test_a_head_that_the_library_has_not_is_refused(tmp_path):
    overrides = ("model.name=segformer_b0", "model.weights=none", "model.options={level_norm: true, width: 64}")
    run = tiny_run(tmp_path / "run", "source_only", (*overrides, "stages.source.steps=1"))
    with pytest.raises(SegRefineryError, match=r"other options \(norm, relu, level_norm\); --format onnx"):
        segrefinery.export(run, tmp_path / "back", "hf")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("architecture", ["DeepLabV3Plus", "Segformer"])
def test_a_model_of_smp_goes_back(tmp_path, capsys, architecture):
    module = with_statistics(getattr(smp, architecture)("resnet18", encoder_weights=None, classes=3))
    module.save_pretrained(tmp_path / "theirs")
    run = adapted(tmp_path / "run", tmp_path / "theirs", "model.classes=[road, car, sky]")
    capsys.readouterr()
    adapted_one = segrefinery.export(run, tmp_path / "quiet", "smp")
    assert capsys.readouterr().out == ""
    assert "stage" not in adapted_one.note
    brought = segrefinery.export(run / "source_model", tmp_path / "brought", "smp")
    assert any("not adapted" in line for line in brought.lines())
    goes_back(run, tmp_path / "back", "smp")
    again = read_start(tmp_path / "back")
    assert again.classes == CLASSES
    assert again.pixel_mean == segrefinery.load(run, "cpu").data.normalization.mean


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pan/resnet18", "multiples of 16 and sides of at least 128"),
        ("fpn/tu-maxvit_rmlp_pico_rw_256", "multiples of 256"),
        ("pspnet/resnet18", "multiples of 8"),
        ("unet/resnet18", "a shorter side of 32 pixels"),
    ],
)
def test_a_model_of_smp_is_checked_on_images_that_its_library_takes(tmp_path, name, said):
    """Trained on smaller ones."""
    model = (f"model.name=smp:{name}", "model.options={}", "model.weights=none", "stages.source.steps=1")
    run = tiny_run(tmp_path / "run", "source_only", model, evaluation=None)
    written = segrefinery.export(run, tmp_path / "back", "smp", images=1)
    assert written.equal == 1
    assert written.note["images"].endswith(said)


def test_a_shallow_decoder_goes_as_a_file_for_other_sizes_than_the_examples(tmp_path):
    """Of any size torch's own program is right and the ONNX fails on all but the example's; of multiples of 16 both go.
    The library's module puts out more pixels than the image has, so no folder of it computes what the model does."""
    import onnxruntime
    import torch

    module = with_statistics(smp.FPN("resnet18", encoder_weights=None, classes=3, encoder_depth=4))
    module.save_pretrained(tmp_path / "theirs")
    run = adapted(tmp_path / "run", tmp_path / "theirs", "model.classes=[road, car, sky]")
    with pytest.raises(SegRefineryError, match="puts out 64 x 128 for an image where 32 x 64 is wanted"):
        segrefinery.export(run, tmp_path / "back", "smp")
    assert not (tmp_path / "back").exists()
    written = segrefinery.export(run, tmp_path / "model.onnx")
    assert "multiples of 16" in written.note["input"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image = torch.randint(0, 256, (2, 3, 80, 48), dtype=torch.uint8)
    assert session.run(None, {"image": image.numpy()})[0].shape == (2, 3, 80, 48)


# -- what does not go --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("export") / "run")


@pytest.mark.parametrize("format", ["hf", "smp"])
def test_a_network_of_nobody_says_what_writes_it(ours, tmp_path, monkeypatch, capsys, format):
    code, _, error = command(monkeypatch, capsys, "export", ours, "-o", tmp_path / "back", "--format", format)
    assert code == 2
    assert "small: is no network of " in error
    assert "--format onnx or torch" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_other_library_is_named(tmp_path):
    run = tiny_run(
        tmp_path / "run", "source_only",
        ("model.name=smp:unet/resnet18", "model.options={}", "model.weights=none", "stages.source.steps=1"),
    )  # fmt: skip
    with pytest.raises(SegRefineryError, match=r"smp:unet/resnet18: is no network of transformers; --format smp or"):
        segrefinery.export(run, tmp_path / "back", "hf")


def test_a_mixture_of_learners_is_no_network_of_a_library(tmp_path):
    saved(tmp_path / "theirs", "upernet", STATISTICS)
    refine = "stages.adapt.refine.implicit_rectification={queries: 64, hidden: 8}"
    run = segrefinery.adapt(
        "self_training", DAY, NIGHT, tmp_path / "run", start=tmp_path / "theirs", scale="small",
        overrides=(*TINY, *SHORT, refine),
    )  # fmt: skip
    with pytest.raises(SegRefineryError, match=r"transformers:upernet: refiners are part of this predictor"):
        segrefinery.export(run, tmp_path / "back", "hf")


def test_a_head_that_transformers_has_not(tmp_path):
    options = "model.options={norm: group}"
    run = tiny_run(
        tmp_path / "run", "source_only",
        ("model.name=segformer_b0", "model.weights=none", options, "stages.source.steps=1"),
    )  # fmt: skip
    with pytest.raises(SegRefineryError, match=r"a batch norm and a ReLU.*\(norm, relu, level_norm\)"):
        segrefinery.export(run, tmp_path / "back", "hf")


def test_a_folder_that_holds_something_stays(ours, tmp_path):
    (tmp_path / "back").mkdir()
    (tmp_path / "back/mine.txt").write_text("mine")
    with pytest.raises(SegRefineryError, match="back: is there already"):
        segrefinery.export(ours, tmp_path / "back", "hf")
    with pytest.raises(SegRefineryError, match=r"--output, --reads, --grid and --size go with onnx"):
        segrefinery.export(ours, tmp_path / "other", "hf", result="labels")
