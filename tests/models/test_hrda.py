"""HRDA: the fusion, the boxes, the sliding detail, and the size of the published attention."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from segrefinery.core.errors import SegRefineryError
from segrefinery.losses import crop_to_box, learner_cross_entropy, weighted_cross_entropy
from segrefinery.models import ModelSettings, build_model
from segrefinery.models.hrda import HRDA, HRDASettings, slide
from segrefinery.models.segmenter import Learner
from toys import ToySegmenter

SMALL = HRDASettings(detail=16, divisor=8, attention_width=8)


@pytest.fixture
def hrda() -> HRDA:
    torch.manual_seed(0)
    return HRDA(ToySegmenter(), SMALL)


def image(height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


def set_attention(network: HRDA, value: float) -> None:
    torch.nn.init.zeros_(network.attention.classifier.weight)
    torch.nn.init.constant_(network.attention.classifier.bias, value)


def test_attention_has_the_published_size():
    segmenter = ToySegmenter(19)
    segmenter.level_channels = (64, 128, 320, 512)
    assert sum(p.numel() for p in HRDA(segmenter).attention.parameters()) == 530_707


def test_shapes_and_box(hrda):
    seen = hrda.train()(image())
    assert seen.logits.shape == (2, 5, 8, 12)
    assert seen.features.shape == (2, 8, 8, 12)
    assert seen.aux_logits.shape == (2, 5, 4, 4)
    context, detail = seen.learners
    assert context.logits.shape == (2, 5, 4, 6)
    assert context.box == (0, 0, 1, 1)
    top, left, bottom, right = detail.box
    assert top * 32 % 8 == 0
    assert left * 48 % 8 == 0
    assert (bottom - top) * 32 == pytest.approx(16)
    assert (right - left) * 48 == pytest.approx(16)
    assert detail.logits is seen.aux_logits
    assert detail.share.shape == (2, 5, 2, 2)


def test_boxes_reach_both_borders_and_follow_the_global_generator(hrda):
    hrda.train()
    torch.manual_seed(1)
    boxes = [hrda(image()).learners[1].box for _ in range(60)]
    assert {box[0] * 32 for box in boxes} == {0, 8, 16}
    assert {round(box[1] * 48) for box in boxes} == {0, 8, 16, 24, 32}
    torch.manual_seed(1)
    assert [hrda(image()).learners[1].box for _ in range(60)] == boxes


def test_closed_attention_gives_the_doubled_context(hrda):
    set_attention(hrda, -100)
    for mode in (True, False):
        seen = hrda.train(mode)(image())
        torch.testing.assert_close(seen.logits, F.interpolate(seen.learners[0].logits, scale_factor=2, mode="bilinear"))


def test_open_attention_gives_the_detail_inside_and_the_context_outside(hrda):
    set_attention(hrda, 100)
    seen = hrda.train()(image())
    context = F.interpolate(seen.learners[0].logits, scale_factor=2, mode="bilinear")
    top, left = round(seen.learners[1].box[0] * 8), round(seen.learners[1].box[1] * 12)
    inner = seen.logits[:, :, top + 1 : top + 3, left + 1 : left + 3]
    torch.testing.assert_close(inner, seen.aux_logits[:, :, 1:3, 1:3])
    outside = torch.ones(8, 12, dtype=torch.bool)
    outside[max(top - 1, 0) : top + 5, max(left - 1, 0) : left + 5] = False
    torch.testing.assert_close(seen.logits[:, :, outside], context[:, :, outside])
    set_attention(hrda, 100)
    seen = hrda.eval()(image())
    torch.testing.assert_close(seen.logits, seen.aux_logits)


def test_the_attention_learns_inside_the_box_only(hrda):
    seen = hrda.train()(image())
    share = seen.learners[1].share
    seen.logits.sum().backward()
    assert hrda.attention.classifier.weight.grad.abs().sum() > 0
    assert (seen.learners[0].share < 1).sum() == share.numel()


def test_detail_crop_is_what_the_box_says(hrda):
    batch = image()
    seen = hrda.train()(batch)
    direct = hrda.segmenter(crop_to_box(batch, seen.learners[1].box))
    torch.testing.assert_close(direct.logits, seen.aux_logits)


def test_sliding_averages_by_count():
    def constant(part: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.full((2, 3, part.shape[-2] // 4, part.shape[-1] // 4), 2.5),)

    (seen,) = slide(constant, image(40, 56), 16)
    assert seen.shape == (2, 3, 10, 14)
    torch.testing.assert_close(seen, torch.full_like(seen, 2.5))

    calls = iter(range(10))
    (seen,) = slide(lambda part: (torch.full((1, 1, 4, 4), float(next(calls))),), image(16, 24), 16)
    assert seen[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_evaluation_sees_all_of_the_image_in_detail(hrda):
    seen = hrda.eval()(image(40, 56))  # no multiple of 16: enlarged to 48 x 64
    assert seen.logits.shape == (2, 5, 12, 16)
    assert seen.aux_logits.shape == (2, 5, 12, 16)
    assert seen.learners[1].box == (0, 0, 1, 1)


def test_evaluation_of_an_image_smaller_than_the_detail(hrda):
    assert hrda.eval()(image(16, 16)).logits.shape == (2, 5, 4, 4)
    big = HRDA(ToySegmenter(), HRDASettings(detail=64, divisor=8, attention_width=8)).eval()
    assert big(image(16, 32)).logits.shape == (2, 5, 4, 8)


def test_large_test_images_are_predicted_in_overlapping_windows(hrda):
    windowed = HRDA(hrda.segmenter, HRDASettings(detail=16, divisor=8, attention_width=8, window=32)).eval()
    windowed.attention.load_state_dict(hrda.attention.state_dict())
    batch = image(32, 48)
    seen, left, right = windowed(batch), hrda.eval()(batch[..., :32]), hrda(batch[..., 16:])
    torch.testing.assert_close(seen.logits[..., :4], left.logits[..., :4])
    torch.testing.assert_close(seen.logits[..., 4:8], (left.logits[..., 4:] + right.logits[..., :4]) / 2)
    torch.testing.assert_close(seen.learners[0].logits[..., 4:], right.learners[0].logits[..., 2:])


def test_bad_input(hrda):
    with pytest.raises(SegRefineryError, match="larger than the crop"):
        HRDA(ToySegmenter(), HRDASettings(detail=48, divisor=8, attention_width=8))(image(32, 64))
    with pytest.raises(ValidationError, match="no multiple of 64"):
        HRDASettings(detail=96)
    with pytest.raises(SegRefineryError, match="divisor"):
        HRDA(ToySegmenter(), HRDASettings(detail=4, divisor=2, attention_width=8))(image(32, 36))


def test_backbone_parameters_are_the_wrapped_ones(hrda):
    assert len(hrda.backbone_parameters()) == 4
    state = hrda.state_dict()
    assert {name.split(".")[0] for name in state} == {"segmenter", "attention"}


def test_levels_are_those_of_the_context(hrda):
    hrda.eval()
    for a, b in zip(hrda.levels(image()), hrda(image()).levels, strict=True):
        torch.testing.assert_close(a, b)


def test_cross_entropy_of_a_learner_reads_its_box():
    label = torch.arange(48).view(1, 6, 8) % 3
    weight = torch.rand(1, 6, 8)
    learner = Learner(torch.randn(1, 3, 3, 4), torch.randn(1, 3, 3, 4), (0.5, 0.5, 1.0, 1.0))
    expected = weighted_cross_entropy(learner.logits, label[:, 3:, 4:], weight[:, 3:, 4:])
    torch.testing.assert_close(learner_cross_entropy(learner, label, weight), expected)
    with pytest.raises(ValueError, match="fractions"):
        crop_to_box(label, (0.5, 0, 0.5, 1))


def test_by_name_around_any_network_of_the_table():
    options = {"detail": 64, "attention_width": 8, "attention_norm": "group", "options": {"width": 16, "blocks": 1}}
    settings = ModelSettings(name="hrda:small", options=options)
    network = build_model(settings, 4).eval()
    assert network(torch.zeros(1, 3, 64, 128)).logits.shape == (1, 4, 16, 32)
    with pytest.raises(ValidationError, match="widht"):
        ModelSettings(name="hrda:small", options={"options": {"widht": 16}})
    with pytest.raises(ValidationError, match="unknown model 'smal'"):
        ModelSettings(name="hrda:smal")


@pytest.mark.parametrize(
    ("name", "own", "cells"),
    [
        ("deeplabv2_resnet101", {}, 8),
        ("fcn8s_vgg16", {"width": 8}, 8),
        ("daformer:resnet18", {"norm": "group"}, 16),
    ],
)
def test_around_large_networks(name, own, cells):
    options = {"detail": 64, "divisor": 32, "attention_width": 8, "attention_norm": "group", "options": own}
    network = build_model(ModelSettings(name=f"hrda:{name}", weights="none", options=options), 4)
    for mode in (True, False):
        with torch.no_grad():
            seen = network.train(mode)(torch.zeros(1, 3, 64, 128))
        assert seen.logits.shape == (1, 4, cells, 2 * cells)
        assert seen.learners[1].logits.shape == (1, 4, cells, cells if mode else 2 * cells)


def test_a_grid_on_which_no_box_lies_is_named():
    options = {"detail": 64, "attention_norm": "group", "options": {"ceil_pooling": True}}
    network = build_model(ModelSettings(name="hrda:deeplabv2_resnet101", weights="none", options=options), 4).eval()
    with torch.no_grad(), pytest.raises(SegRefineryError, match="gives 5 x 9 cells for a context image of 32 x 64"):
        network(torch.zeros(1, 3, 64, 128))
