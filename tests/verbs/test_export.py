"""A file computes what its model computes, on images of any size, and says what it is."""

import copy
import json
import re
import shutil

import pytest
import torch
from torch import nn

import segrefinery
from runs import NIGHT, TEST, command, narrow, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.model import Model
from segrefinery.evaluation.inference import logits_at
from segrefinery.interchange import deployed, graph
from segrefinery.interchange.followable import followable
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.padding import pad_to_multiple, unpad
from segrefinery.models.small import Small, SmallSettings
from segrefinery.refine.implicit_rectification import ImplicitRectification
from segrefinery.refine.implicit_rectification.refiner import RectifiedSegmenter

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("export") / "run")


def probabilities(run, size):
    """An image and what the model says of it, without its resize."""
    model = segrefinery.load(run, "cpu")
    model.data = model.data.model_copy(update={"short_side": None, "evaluation_short_side": None})
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return image, model.predict(image)


@pytest.mark.parametrize("output", ["probabilities", "labels"])
@pytest.mark.parametrize("reads", ["uint8", "float"])
def test_onnx(run, tmp_path, output, reads):
    found = segrefinery.export(run, tmp_path / "model.onnx", result=output, reads=reads, check=TEST)
    assert found.images == 3
    assert found.equal == 1
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == found.note["classes"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for size in ((47, 61), (64, 40)):
        image, probs = probabilities(run, size)
        batch = torch.stack([image, image, image])
        said = session.run([output], {"image": (batch if reads == "uint8" else batch.float() / 255).numpy()})[0]
        wanted = probs if output == "probabilities" else probs.argmax(dim=0).to(torch.uint8)
        torch.testing.assert_close(torch.from_numpy(said)[2], wanted, atol=1e-5, rtol=0)


def test_a_torch_program(run, tmp_path):
    found = segrefinery.export(run, tmp_path / "model.pt2", "torch", result="probabilities")
    assert found.difference < 1e-5
    note = {graph.NOTE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=note).module()
    assert json.loads(note[graph.NOTE])["output"].startswith("probabilities")
    image, probs = probabilities(run, (47, 61))
    torch.testing.assert_close(program(image[None])[0], probs, atol=1e-5, rtol=0)


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(deployed.Deployed, "logits", lambda self, image: -self.network(image).logits)
    with pytest.raises(SegRefineryError, match=r"not written.*computes something else.*equal labels"):
        segrefinery.export(run, tmp_path / "model.pt2", "torch", grid="network")
    assert not list(tmp_path.iterdir())


def test_images_that_are_gone_ask_for_others(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    config = json.loads((moved / "model" / "config.json").read_text())
    config["trained_on"] |= {"source": "folder:my/source", "target": "my/camera"}
    (moved / "model" / "config.json").write_text(json.dumps(config))
    elsewhere = (
        r"moved: its target cannot be opened \(a relative path starts where the run was made\): my/camera: .*\w\. "
    )
    with pytest.raises(SegRefineryError, match=elsewhere + ".*--check IMAGES"):
        segrefinery.export(moved, tmp_path / "model.pt2", "torch")
    with pytest.raises(SegRefineryError, match=elsewhere.replace("target", "source").replace("camera", "source")):
        segrefinery.pseudo_label(moved, "scenes:night,count=2,size=32x64", tmp_path / "labels", ids="source")
    (moved / "recipe.yaml").write_text((moved / "recipe.yaml").read_text().replace(NIGHT, "my/camera"))
    with pytest.raises(SegRefineryError, match=elsewhere + "Name the images with --target"):
        segrefinery.compare([moved])
    with pytest.raises(SegRefineryError, match="nothing: path: does not exist"):
        segrefinery.export(run, tmp_path / "model.pt2", "torch", check=tmp_path / "nothing")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(SegRefineryError, match=r"needs onnx: pip install 'segrefinery\[export\]'"):
        deployed.need("onnx")


@pytest.fixture
def refused(run, monkeypatch, capsys):
    """Runs ``segrefinery export`` -> its complaint of one line, before anything of the graph was made."""
    monkeypatch.setattr("segrefinery.verbs.export.program_of", None)

    def call(output, *more):
        code, _, error = command(monkeypatch, capsys, "export", run, "-o", output, *more)
        assert (code, error.count("\n")) == (2, 1), error
        return error

    return call


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_library_of_onnx_is_missed_before_the_work(refused, tmp_path, monkeypatch, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    assert f"--format onnx needs {library}: pip install" in refused(tmp_path / "model.onnx")


def test_where_no_file_can_be_is_said_before_the_work(refused, run, tmp_path):
    (tmp_path / "file").write_text("here")
    assert f"{tmp_path / 'file'} is no folder that can be written" in refused(tmp_path / "file/in/model.onnx")
    assert f"{tmp_path}: is a folder, and --format onnx writes a file; say -o {tmp_path}/model.onnx" in refused(
        tmp_path
    )
    assert "model.pt2" in refused(tmp_path, "--format=torch")
    own = run / "model/model.safetensors"
    before = own.read_bytes()
    assert "is part of the model folder" in refused(own, "--format=torch")
    assert own.read_bytes() == before


def test_a_folder_is_made_and_a_file_that_was_there_is_said(run, tmp_path):
    file = tmp_path / "new" / "folder" / "model.pt2"
    assert not segrefinery.export(run, file, "torch").replaced
    again = segrefinery.export(run, file, "torch")
    assert f"{file}: written in place of the one that was there; on" in again.lines()[-1]


def test_an_operator_that_onnx_lacks_is_one_line():
    class Odd(nn.Module):
        reads = "float"

        def forward(self, image):
            return torch.linalg.eigvalsh(image[..., :3, :3])

    program, _ = graph.program_of(Odd(), 1, (149, 149))
    with pytest.raises(SegRefineryError, match=r"ONNX has no operator .*eigh.*--format torch") as caught:
        graph.onnx_bytes(program, "logits", {})
    assert "\n" not in str(caught.value)


def test_such_an_operator_in_a_runs_network_is_one_line(run, tmp_path, monkeypatch, capsys):
    def logits(self, image):
        return self.network(image).logits + torch.linalg.eigvalsh(image[..., :3, :3]).sum()

    monkeypatch.setattr(deployed.Deployed, "logits", logits)
    code, _, error = command(monkeypatch, capsys, "export", run, "-o", tmp_path / "model.onnx")
    assert code == 2
    assert re.search(r"ONNX has no operator .*eigh.*which this network needs; --format torch does without ONNX", error)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_images_are_fitted_by_their_border():
    image = open_dataset(NIGHT).image(0)
    padded = deployed.fitted(image[..., :31, :63], 32)
    assert padded.shape == (3, 32, 64)
    assert torch.equal(padded[..., 31, :63], image[..., 30, :63])
    assert deployed.fitted(image, (20, 80)).shape == (3, 20, 80)


class Padded(nn.Module):
    """Reads multiples of 32, at a quarter of their size."""

    reads = "float"

    def forward(self, image):
        padded = pad_to_multiple(image, 32)
        return unpad(padded[..., ::4, ::4], padded.shape[-2:], image.shape[-2:])


def test_padding_of_open_sizes_rounds_as_pythons():
    program, sizes = graph.program_of(Padded(), 32)
    assert sizes == 1
    runner = graph.onnx_runner(graph.onnx_bytes(program, "logits", {}))
    for size in ((61, 83), (64, 96), (33, 31)):
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(runner(image), Padded()(image), atol=1e-5, rtol=0)


class Pooled(nn.Module):
    """A grid of fixed size, as PSPNet and UPerNet have several."""

    reads = "float"

    def __init__(self, cells):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(cells)

    def forward(self, image):
        return self.pool(image)


@pytest.mark.parametrize("cells", [1, 6, (2, 5)])
def test_pooling_to_a_grid_is_for_any_size(cells):
    """Of whose cells some reach over a place of their neighbours, and some are smaller than a place."""
    program, sizes = graph.program_of(followable(Pooled(cells)), 32)
    assert sizes == 1
    runner = graph.onnx_runner(graph.onnx_bytes(program, "logits", {}))
    for size in ((61, 83), (64, 96), (4, 3)):
        image = torch.rand(2, 3, *size)
        torch.testing.assert_close(runner(image), Pooled(cells)(image), atol=1e-6, rtol=0)


class OnlyOneSize(nn.Module):
    """Is followed for any size, and then works for the example's alone, as transformers' BEiT does."""

    reads = "float"

    def forward(self, image):
        cells = -(-image.shape[-2] // 16)
        return image.mean() * (2 * cells - 1 if cells == 10 else torch.arange(cells).sum())


def test_a_network_that_takes_one_size_alone_says_so_at_once():
    with pytest.raises(SegRefineryError, match=r"torch\.export cannot follow the network.*--size HEIGHTxWIDTH"):
        graph.program_of(OnlyOneSize(), 16)
    program, _ = graph.program_of(OnlyOneSize(), 16, (160, 160))
    assert program.module()(torch.ones(2, 3, 160, 160)) == 19


def test_the_mixture_of_learners_is_inside():
    torch.manual_seed(0)
    network = Small(4, SmallSettings(width=16, blocks=1)).eval()
    function = ImplicitRectification(network.learner_channels, 4, hidden=8)
    nn.init.normal_(function.psi[-1].weight)
    mixture = RectifiedSegmenter(network, function).eval()
    model = Model(mixture, network, LabelSpace.of("four", list("abcd")), DataSettings())
    program, sizes = graph.program_of(deployed.Deployed(model, "float"), deployed.largest_stride(model))
    assert sizes == 1
    mean, std = (torch.tensor(triple)[:, None, None] for triple in model.data.normalization)
    for size in ((61, 83), (48, 32)):
        image = torch.rand(3, 3, *size)
        torch.testing.assert_close(program.module()(image), mixture.predict((image - mean) / std, size))


def test_the_mixture_on_the_networks_grid_is_a_file(tmp_path):
    run = tiny_run(tmp_path / "run", "ir2f", narrow("ir2f", {"supervised": 1, "self_training": 1}), evaluation=None)
    written = segrefinery.export(run, tmp_path / "model.pt2", "torch", grid="network", images=2)
    assert written.difference < 1e-5


def test_a_program_that_no_file_holds_is_one_line(run, tmp_path, monkeypatch):
    def save(*arguments, **named):
        raise AssertionError("op round is not known") from ValueError("of sizes\nand so on")

    monkeypatch.setattr(torch.export, "save", save)
    with pytest.raises(SegRefineryError, match=r"cannot save the program: of sizes; .*--size HEIGHTxWIDTH$"):
        segrefinery.export(run, tmp_path / "model.pt2", "torch")


def two_scales(**options):
    torch.manual_seed(0)
    options = {"detail": 64, "divisor": 8, "attention_width": 16, **options}
    network = build_model(ModelSettings(name="hrda:small", options=options), 4).eval()
    return network, Model(network, network, LabelSpace.of("four", list("abcd")), DataSettings())


@pytest.mark.parametrize("size", [(32, 48), (48, 160), (64, 64), (97, 131), (208, 96)])
def test_boxes_at_once_are_boxes_one_by_one(size):
    """On images that are smaller than a box in one direction or both, fill it, and need several."""
    network, _ = two_scales()
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        wanted, given = network(image), followable(copy.deepcopy(network))(image)
    torch.testing.assert_close(given.logits, wanted.logits, atol=2e-6, rtol=0)
    for one, other in zip(given.learners, wanted.learners, strict=True):
        torch.testing.assert_close(one.latent, other.latent, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.share, other.share, atol=2e-6, rtol=0)


def test_boxes_need_images_of_more_than_one_and_say_so():
    _, model = two_scales()
    export = deployed.Deployed(model, "float")
    program, sizes = graph.program_of(export, deployed.largest_stride(model))
    assert deployed.usage_note(model, export, sizes, deployed.least_side(model))["input"].endswith(
        "any height and width of at least 65; normalisation is inside"
    )
    assert deployed.fitted(torch.zeros(3, 32, 80, dtype=torch.uint8), sizes, deployed.least_side(model)).shape[1] == 65
    runner = graph.torch_runner(graph.torch_bytes(program, {}))
    image = torch.rand(3, 3, 97, 131)
    torch.testing.assert_close(runner(image), export(image), atol=1e-5, rtol=0)
    with pytest.raises(SegRefineryError, match=r"takes no images of 64 x 96 pixels.*>= 65.*--size HEIGHTxWIDTH"):
        runner(torch.rand(1, 3, 64, 96))


def test_windows_of_prediction_are_written_for_one_size():
    network, model = two_scales(window=96)
    export = deployed.Deployed(model, "float")
    with pytest.raises(SegRefineryError, match=r"windows, as many as its size asks for; .*--size HEIGHTxWIDTH"):
        graph.program_of(export, deployed.largest_stride(model))
    program, _ = graph.program_of(export, deployed.largest_stride(model), (112, 128))
    image = torch.rand(1, 3, 112, 128)
    mean, std = (torch.tensor(triple)[:, None, None] for triple in model.data.normalization)
    with torch.no_grad():
        wanted = logits_at(network, (image - mean) / std, (112, 128))
    torch.testing.assert_close(program.module()(image), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [64, (64,), (0, 64)])
def test_a_size_is_height_and_width(run, tmp_path, size):
    with pytest.raises(SegRefineryError, match="size: height and width"):
        segrefinery.export(run, tmp_path / "model.pt2", format="torch", size=size)
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize("format", ["onnx", "smp"])
def test_at_least_one_image_checks_a_file(run, tmp_path, format):
    with pytest.raises(SegRefineryError, match="images: a whole number of at least 1 expected, got 0"):
        segrefinery.export(run, tmp_path / "model", format, images=0)
