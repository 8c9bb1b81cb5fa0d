"""timm's encoders of several levels: images of any size, or a line; and biases that a teacher does not keep."""

import copy

import pytest
import torch
from torch import nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.models import ModelSettings, build_model


def built(name):
    torch.manual_seed(0)
    return build_model(ModelSettings(name=f"daformer:{name}", weights="none"), 2)


def test_windows_that_part_the_grid_want_multiples_of_their_training():
    """What the encoder says of an image is what it says of the image padded to 256 x 256."""
    model = built("maxvit_rmlp_pico_rw_256")
    assert (model.largest_stride, model.encoder.multiple) == (32, 256)
    assert model.train()(torch.rand(2, 3, 64, 64)).logits.shape == (2, 2, 16, 16)
    image = torch.rand(1, 3, 200, 256)
    padded = torch.nn.functional.pad(image, (0, 0, 0, 56), mode="replicate")
    with torch.no_grad():
        given, whole = model.eval().encoder(image), model.encoder.levels(padded)
    for level, theirs, rows in zip(given, whole, (50, 25, 13, 7), strict=True):
        assert level.shape[-2:] == (rows, theirs.shape[-1])
    torch.testing.assert_close(given[0], whole[0][..., :50, :])


@pytest.mark.parametrize(
    ("name", "size"),
    [("coatnet_pico_rw_224", 224), ("levit_128s", 224), ("efficientformerv2_s0", 224), ("crossvit_9_240", 240)],
)
def test_an_encoder_of_one_size_is_refused_when_it_is_built(name, size):
    with pytest.raises(SegRefineryError, match=f"'{name}' takes images of {size} x {size} pixels alone.*choose"):
        built(name)


def test_attention_biases_that_move_are_read_anew():
    """A teacher never trains, and follows its student in place."""
    model = built("efficientvit_m0").eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)  # those behind attention begin with 0
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        before, twin = model(image).logits, copy.deepcopy(model)
        for name, parameter in model.named_parameters():
            if "attention_biases" in name:
                parameter.normal_(std=5)
        twin.load_state_dict(model.state_dict())
        after = model(image).logits
    assert not torch.equal(before, after)
    assert torch.equal(twin(image).logits, after)


def test_the_same_encoders_inside_segmentation_models_pytorch():
    pytest.importorskip("segmentation_models_pytorch")

    def smp(encoder):
        return build_model(ModelSettings(name=f"smp:fpn/tu-{encoder}", weights="none"), 2).eval()

    # its grid lies from corner to corner, and so has a cell more
    for encoder, multiple, columns in (("swin_tiny_patch4_window7_224", 32, 21), ("maxvit_rmlp_pico_rw_256", 256, 22)):
        model = smp(encoder)
        assert model.multiple == multiple
        with torch.no_grad():
            assert model(torch.rand(1, 3, 61, 83)).logits.shape == (1, 2, 16, columns)
    with pytest.raises(SegRefineryError, match="'coatnet_pico_rw_224' takes images of 224 x 224 pixels alone"):
        smp("coatnet_pico_rw_224")
