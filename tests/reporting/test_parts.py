"""The report's building blocks against values worked out by hand, and the looks inside refiners on a toy network."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segrefinery.data.transforms import DataSettings
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.refine.entropy_mixture import EntropyMixtureSettings, fit_two_gaussians
from segrefinery.refine.implicit_rectification.refiner import ImplicitRectificationSettings
from segrefinery.refine.pixel_attention.refiner import PixelAttentionSettings
from segrefinery.reporting.charts import line_chart, ticks
from segrefinery.reporting.gallery import class_legend, shot_card
from segrefinery.reporting.insight import attention_section, rectification_section, thinnest_crop
from segrefinery.reporting.labels import gaussians, mixture_section
from segrefinery.reporting.markup import Markup, element, percent, signed
from segrefinery.reporting.material import Shot, ShownModel
from segrefinery.reporting.pictures import BRIGHT, DARK, LONG_SIDE, MIDDLE, heat, label_map, shown_size
from segrefinery.reporting.rounds import times_as_often
from toys import ToySegmenter

SPACE = LabelSpace.of("toy", ("road", "pole", '<script>"sky"'))


def test_text_is_escaped_once_and_markup_not_at_all():
    inner = element("b", "1 < 2 & 'q'")
    assert inner == "<b>1 &lt; 2 &amp; &#x27;q&#x27;</b>"
    assert element("p", inner, None, [3, "<"]) == f"<p>{inner}3&lt;</p>"
    assert element("img", alt='"><script>', hidden=True, title=None) == '<img alt="&quot;&gt;&lt;script&gt;" hidden>'
    assert isinstance(inner, Markup)


def test_numbers_read_well():
    assert [percent(None), percent(0.1234), percent(0.5, 0)] == ["absent", "12.3", "50"]
    assert [signed(0.021), signed(-0.021), signed(-0.0001)] == ["+2.1", "\N{MINUS SIGN}2.1", "0.0"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 37, [0, 10, 20, 30]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_line_keeps_its_gaps_and_its_place():
    chart = line_chart({"a": [(0, 0.0), (1, 1.0), (2, float("nan")), (3, 0.5)]}, "x", "y", "t", y_range=(0, 1))
    assert re.findall(r'points="(.*?)"', chart) == ["56.0,216.0 218.7,14.0", "544.0,115.0"]


def test_gaussians_are_densities():
    values = torch.cat([torch.randn(4000) * 0.03 + 0.2, torch.randn(4000) * 0.08 + 0.7])
    curves = gaussians(fit_two_gaussians(values), points=1000)
    areas = {name: sum(y for _, y in points) / 1000 for name, points in curves.items()}
    assert areas == {"certain": pytest.approx(0.5, abs=0.02), "uncertain": pytest.approx(0.5, abs=0.02)}
    assert max(curves["certain"], key=lambda point: point[1])[0] == pytest.approx(0.2, abs=0.01)


def test_sampling_is_told_in_units_of_even_sampling():
    assert times_as_often([0.1, 0.5, 0.4]) == pytest.approx([1.5, 1.2, 0.3])


def test_pictures_shrink_but_never_grow():
    assert shown_size((20, 30)) == (20, 30)
    assert shown_size((1024, 2048)) == (LONG_SIDE // 2, LONG_SIDE)


def test_heat_goes_from_dark_to_bright():
    colors = heat(torch.tensor([[0.0, 0.5, 1.0, float("nan")]]))
    assert [tuple(color[:3]) for color in colors[0, :3]] == [DARK, MIDDLE, BRIGHT]
    assert colors[0, :, 3].tolist() == [255, 255, 255, 0]


def test_a_label_map_has_the_classes_colours_and_ignored_pixels_are_clear():
    tag = label_map(torch.tensor([[0, 1, IGNORE]]), SPACE, "labels")
    data = re.search(r"base64,([^\"]+)", tag)
    assert data
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGBA"))
    assert [tuple(pixel[:3]) for pixel in pixels[0, :2]] == list(SPACE.colors[:2])
    assert pixels[0, :, 3].tolist() == [255, 255, 0]


def test_a_card_survives_any_class_and_file_name():
    probs = torch.rand(3, 8, 12).softmax(0)
    shot = Shot('<img src=x onerror="1">', torch.zeros(3, 8, 12, dtype=torch.uint8), None, probs, probs)
    made = shot_card(shot, SPACE) + class_legend(SPACE)
    assert "<img src=x" not in made
    assert "&lt;script&gt;&quot;sky&quot;" in made
    assert made.count('class="labels') == 2


def test_one_network_is_compared_with_the_image():
    probs = torch.rand(3, 8, 12).softmax(0)
    made = shot_card(Shot("a", torch.zeros(3, 8, 12, dtype=torch.uint8), None, probs, None), SPACE)
    assert re.findall(r'class="tag \w+">(.*?)<', made) == ["image", "source-only"]


def test_the_crop_has_the_thin_objects():
    label = torch.zeros(20, 30, dtype=torch.int64)
    label[12:18, 25] = SPACE.id_of("pole")
    top, left = thinnest_crop(label, SPACE, (6, 5))
    assert top == 12
    assert left <= 25 < left + 5


# -- looks inside refiners ---------------------------------------------------------------------------------------------


@pytest.fixture
def material():
    torch.manual_seed(0)
    network = ToySegmenter(num_classes=3).eval()
    trained = ShownModel(network, network, SPACE, DataSettings(), None)
    shot = Shot("a", torch.randint(0, 255, (3, 32, 48), dtype=torch.uint8), None, None, None)
    return SimpleNamespace(last=trained, shots=[shot], target_shots=[shot], refiners={})


@pytest.mark.parametrize(
    ("settings", "section", "pictures", "charts"),
    [
        (EntropyMixtureSettings(), mixture_section, 3, 3),
        (PixelAttentionSettings(), attention_section, 9, 0),  # pyright: ignore[reportCallIssue]
        (ImplicitRectificationSettings(hidden=8), rectification_section, 3, 0),
    ],
)
@torch.no_grad()
def test_a_refiner_is_looked_into_where_the_run_has_it(material, settings, section, pictures, charts):
    assert section(material) is None
    material.refiners = {"one": settings.build(material.last.segmenter, SPACE)}
    made = section(material)
    seen = material.last.view(material.shots[0].image).logits.argmax(dim=1).unique()
    if section is not rectification_section:
        pictures = pictures * len(seen) // 3 if section is attention_section else pictures
        charts = min(charts, len(seen))
    assert made.count("<img") == pictures
    assert made.count("<svg") == charts
    assert '<script>"sky"' not in made
