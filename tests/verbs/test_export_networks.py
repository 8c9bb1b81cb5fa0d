"""Each kind of network as a graph: ONNX computes what we compute, on images of sizes that no stride divides."""

import re

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from models.foreign.tiny import CLASSES, saved
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.model import Model
from segrefinery.evaluation.inference import logits_at
from segrefinery.interchange import graph
from segrefinery.interchange.deployed import Deployed, largest_stride
from segrefinery.labels import LabelSpace
from segrefinery.models import ModelSettings, build_model, encoders, vit
from segrefinery.models.start import read_start
from segrefinery.refine.implicit_rectification import ImplicitRectification
from segrefinery.refine.implicit_rectification.refiner import RectifiedSegmenter
from segrefinery.verbs.export import export_file

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PLAIN = {"depth": 4, "embed_dim": 48, "num_heads": 2}
NETWORKS = {
    "deeplabv2_resnet101": {},
    "deeplabv2_resnet101 se": {"head": "se", "auxiliary": False, "ceil_pooling": False},
    "fcn8s_vgg16": {"width": 16},
    "dinov2_small_reg": {"upsample": 2},
    "vit:vit_tiny_patch16_dinov3_qkvb": {"upsample": 2},
    "vit:vit_tiny_patch16_224": {"upsample": 1},
    "daformer:resnet18": {},
    "segformer_b0": {},
    "efficientnet_lite0 mixture": {"auxiliary": True},
    "hrda:small": {"detail": 64, "divisor": 8, "attention_width": 16, "attention_norm": "group"},
    "hrda:small mixture": {"detail": 32, "divisor": 8, "attention_width": 16},
}
SMALLER = {
    "daformer:resnet18": {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)},
}
STRIDES = {"deeplabv2_resnet101": 8}
"""What sides are multiples of, of networks that take no others in a graph."""
SIZES = {"hrda": [(80, 128), (176, 96)]}
"""Of networks whose images are enlarged to multiples, where onnxruntime places pixels by a few millionths otherwise."""


@pytest.fixture
def shallow(monkeypatch):
    """Encoders of a block a stage."""
    monkeypatch.setattr(torchvision.models, "resnet101", lambda **options: ResNet(Bottleneck, [1] * 4, **options))
    create = encoders.create_timm

    def smaller(name, pretrained, **options):
        changes = PLAIN if "dynamic_img_size" in options else SMALLER.get(f"daformer:{name}", {})
        return create(name, pretrained, **options, **changes)

    for module in (encoders, vit):
        monkeypatch.setattr(module, "create_timm", smaller)


def model_of(name, options):
    """Of random weights, whose batch norms do something."""
    torch.manual_seed(0)
    name, _, kind = name.partition(" ")
    network = build_model(ModelSettings(name=name, weights="none", options=options), 4).eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    whole = network
    if kind == "mixture":
        function = ImplicitRectification(network.learner_channels, 4, hidden=8)
        nn.init.normal_(function.psi[-1].weight)
        whole = RectifiedSegmenter(network, function).eval()
    return Model(whole, network, LabelSpace.of("four", list("abcd")), DataSettings())


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_and_a_torch_program_compute_the_same(name, shallow):
    model = model_of(name, NETWORKS[name])
    program, sizes = graph.program_of(Deployed(model, "float"), largest_stride(model))
    assert sizes == STRIDES.get(name, 1)
    mean, std = (torch.tensor(triple)[:, None, None] for triple in model.data.normalization)
    runners = (
        graph.onnx_runner(graph.onnx_bytes(program, "logits", {})),
        graph.torch_runner(graph.torch_bytes(program, {})),
    )
    tried = [(61, 83), (64, 96)] if sizes == 1 else [(sizes * 3, sizes * 5), (sizes * 8, sizes * 4)]
    tried = SIZES.get(name.partition(":")[0], tried)
    for batch, sides in enumerate(tried, 1):
        image = torch.rand(batch, 3, *sides)
        with torch.no_grad():
            ours = logits_at(model.network, (image - mean) / std, sides)
            for run in runners:
                torch.testing.assert_close(run(image), ours, atol=2e-5 * float(ours.abs().max()), rtol=0)


def test_the_least_side_that_a_program_says_is_one_that_it_takes(tmp_path):
    """torch.export takes it for granted that attention's smallest map has two columns, and refuses narrower images."""
    pytest.importorskip("transformers")
    saved(tmp_path / "theirs", "segformer")
    network, _ = read_start(tmp_path / "theirs").build(CLASSES)
    model = Model(network.eval(), network, LabelSpace.of("three", list(CLASSES)), DataSettings(short_side=None))
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    written = export_file(model, Deployed(model), tmp_path / "m.pt2", "torch", None, graph.OPSET, [image])
    least = int(re.search(r"at least (\d+)", written.note["input"])[1])
    program = torch.export.load(tmp_path / "m.pt2", extra_files=(note := {graph.NOTE: ""})).module()
    assert f"at least {least};" in note[graph.NOTE]
    for size in ((least, least), (least, 150), (150, least)):
        assert program(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, 3, *size)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.zeros(1, 3, least - 1, least - 1, dtype=torch.uint8))
