"""Modules of the user's own: what they may be and return, and what is refused in one line, before a run begins."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import segrefinery as api
from runs import TINY
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import Normalization
from segrefinery.engine.fits import pools_to_one_cell
from segrefinery.models import wrap
from segrefinery.models.trained import start_of

NAMED = ("model.classes=[road, car, sky]", "classes=[road, car, sky]", "stages.adapt.steps=2")


class Net(nn.Module):
    """Three bands to three classes at stride 4; ``given`` makes of the logits what is returned."""

    def __init__(self, given=lambda logits: logits, bands=3, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(bands, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
        )
        self.given = given

    def forward(self, image):
        return self.given(self.layers(image))


class Asking(Net):
    def forward(self, image, scale):
        return self.layers(image) * scale


class OfOneSize(Net):
    def forward(self, image):
        return self.layers(image) + torch.zeros(1, 3, 56, 56)


class Output(dict):
    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    "given",
    [
        lambda logits: {"out": logits, "aux": None}, lambda logits: {"logits": logits},
        lambda logits: Output(logits=logits, loss=None),
    ],
)  # fmt: skip
def test_what_a_module_may_return(given):
    image = torch.rand(2, 3, 40, 52)
    with torch.no_grad():
        torch.testing.assert_close(wrap(Net(given).eval(), 3)(image).logits, Net().eval()(image))


REFUSED = {
    "more than an image": (lambda: Asking(), r"Asking does not take an image batch 1 x 3 x 64 x 64 alone.*'scale'"),
    "one size": (lambda: OfOneSize(), r"OfOneSize does not take an image batch 1 x 3 x 64 x 64 alone"),
    "other bands": (lambda: Net(bands=4), r"Net does not take.*4 channels.*of other bands than three, name a normaliz"),
    "probabilities": (lambda: Net(lambda z: z.softmax(1)), "puts out probabilities.*without its softmax"),
    "half precision": (lambda: Net().half(), r"has parameters of torch\.float16.*wrap module\.float\(\)"),
    "no values": (lambda: Net().to("meta"), r"Net: layers\.0\.weight is on the meta device.*load the weights first"),
    "no numbers": (lambda: Net(lambda z: z * torch.nan), "puts out values that are not finite"),
    "no module": (lambda: "net.pth", r"wrap: a torch\.nn\.Module expected, got 'net.pth'"),
    "a list as out": (lambda: Net(lambda z: {"out": [z]}), r"returned logits of type list; expected 1 x 3 x h x w"),
    "no out": (lambda: Net(lambda z: {"out": None}), "returned logits of type NoneType"),
    "other classes in aux": (lambda: Net(lambda z: {"out": z, "aux": z[:, :2]}), r"'aux' of shape \(1, 2, 16, 16\)"),
    "a tuple": (lambda: Net(lambda z: (z, z)), "returned tuple; expected a tensor, a mapping"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_line(case):
    module, said = REFUSED[case]
    with pytest.raises(SegRefineryError, match=said):
        wrap(module(), 3)


@pytest.mark.parametrize(("given", "warned"), [(torch.sigmoid, 1), (torch.zeros_like, 0), (lambda z: z, 0)])
def test_probabilities_of_a_sigmoid_are_warned_of(caplog, given, warned):
    wrap(Net(given), 3, normalization=Normalization((0.5,) * 3, (0.5,) * 3))
    assert caplog.text.count("Net puts out nothing below 0 or above 1") == warned
    assert caplog.text.count("wrap it without its sigmoid") == warned


class OfSomeSizes(Net):
    def forward(self, image):
        if image.shape[-1] % 32 or (self.training and len(image) == 1):
            raise ValueError("not so")
        return self.layers(image)


def test_a_module_that_does_not_take_an_image_is_named_with_its_size():
    network = wrap(OfSomeSizes(), 3)
    with pytest.raises(SegRefineryError, match=r"OfSomeSizes does not take an image batch 2 x 3 x 32 x 48 in training"):
        network(torch.zeros(2, 3, 32, 48))
    assert network(torch.zeros(2, 3, 48, 32)).logits.shape == (2, 3, 12, 8)
    with pytest.raises(
        SegRefineryError, match=r"batch 1 x 3 x 32 x 64 in training \(ValueError: not so\).*data\.batch"
    ):
        pools_to_one_cell(network, (32, 64))


def test_a_module_that_is_frozen_as_a_whole_is_refused():
    with pytest.raises(SegRefineryError, match="Net has no parameter that learns; set requires_grad"):
        start_of(wrap(Net().requires_grad_(False), 3))


def test_a_module_that_returns_fewer_images_is_refused():
    network = wrap(Net(lambda z: z[:1]), 3)
    with pytest.raises(SegRefineryError, match=r"logits of shape \(1, 3, 8, 8\); expected 2 x 3 x h x w"):
        network(torch.zeros(2, 3, 32, 32))


class Logits(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image).logits


def test_a_module_is_exported_for_batches_and_images_of_any_size():
    network = Logits(wrap(Net().eval(), 3)).eval()
    open_sides = {"image": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}}
    program = torch.export.export(network, (torch.rand(2, 3, 32, 64),), dynamic_shapes=open_sides).module()
    assert program(torch.rand(3, 3, 64, 96)).shape == (3, 3, 16, 24)


class OtherwiseInTraining(Net):
    def forward(self, image):
        return {"loss": self.layers(image)} if self.training else self.layers(image)


class TakesLargeBatches(Net):
    def forward(self, image):
        if self.training and len(image) < 8:
            raise ValueError("too few")
        return self.layers(image)


UNTEACHABLE = {
    "detached": (lambda: Net(lambda z: z.detach()), "Net puts out logits without a gradient"),
    "rounded": (lambda: Net(lambda z: z.long()), "Net puts out logits without a gradient"),
    "another kind": (OtherwiseInTraining, r"OtherwiseInTraining returned in training dict; expected a tensor"),
}


@pytest.mark.parametrize("case", UNTEACHABLE)
def test_a_module_that_cannot_be_taught_is_refused_before_a_run_and_still_predicts(case):
    module, said = UNTEACHABLE[case]
    network = wrap(module().eval(), 3)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(SegRefineryError, match=said):
        start_of(network)
    assert not network.module.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    start_of(wrap(TakesLargeBatches().eval(), 3))


def test_the_layer_for_features_has_a_name():
    with pytest.raises(SegRefineryError, match=r"unknown layer of Net 'x'\. Choose one of: layers, layers\.0"):
        wrap(Net(), 3, feature_layer="x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (((123.0, 116.0, 103.0), (58.0, 57.0, 57.0)), r"no mean of images in \[0, 1\]; divide .* by 255"),
        (((0.5, 0.5, 0.5), (58.0, 57.0, 57.0)), r"no standard deviation of images in \[0, 1\]; divide .* by 255"),
        (((0.5, 0.5, 0.5), (0.2, 0.0, 0.2)), "no standard deviation, which is positive"),
        (((0.5, 0.5, 0.5), (0.2, 0.2)), "the mean has 3 numbers and the deviation 2"),
    ],
)
def test_statistics_are_those_of_images_from_0_to_1(given, said):
    with pytest.raises(SegRefineryError, match=f"normalization: .*{said}"):
        wrap(Net(), 3, normalization=Normalization(*given))


def test_statistics_are_two_lists_of_numbers():
    with pytest.raises(SegRefineryError, match="normalization: mean and deviation of each band"):
        wrap(Net(), 3, normalization=(0.5, 0.5))  # pyright: ignore[reportArgumentType]


def test_a_module_of_one_class_is_to_be_one_of_two():
    with pytest.raises(SegRefineryError, match=r"has one class.*torch\.zeros_like\(z\)"):
        start_of(wrap(Net(classes=1), 1))


def test_a_module_reads_as_many_bands_as_its_statistics(tmp_path):
    from PIL import Image

    module = wrap(Net(bands=1), 3, normalization=Normalization((0.5,), (0.25,)))
    for number in range(2):
        noise = torch.randint(0, 256, (32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(noise.numpy()).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "dataset.yaml").write_text("images: images/{name}.png\nbands: [1]\n")
    target, overrides = f"folder:{tmp_path}", (*TINY, *NAMED)
    run = api.adapt("source_free", None, target, tmp_path / "run", start=module, scale="small", overrides=overrides)
    assert api.load(run, "cpu", network=module).bands == 1
    three = "scenes:night,count=2,size=32x64"
    with pytest.raises(SegRefineryError, match="have 3 bands, and wrapped:Net reads 1"):
        api.adapt("source_free", None, three, tmp_path / "other", start=module, scale="small", overrides=overrides)


def test_what_is_frozen_stays(tmp_path):
    net = Net()
    net.layers[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    night, overrides = "scenes:night,count=4,size=32x64", (*TINY, *NAMED)
    run = api.adapt(
        "source_free", None, night, tmp_path / "run", start=wrap(net, 3), scale="small", overrides=overrides
    )
    api.export(run, tmp_path / "after.pth", "state_dict")
    after = torch.load(tmp_path / "after.pth")
    assert after.keys() == before.keys()
    assert torch.equal(after["layers.0.weight"], before["layers.0.weight"])
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
