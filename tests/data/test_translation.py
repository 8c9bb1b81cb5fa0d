import pytest
import torch
from torchvision.io import write_png

from segrefinery.data.photometric import denormalize, normalize
from segrefinery.data.translation import (
    TranslatedFolder,
    TranslationSettings,
    lab_to_rgb,
    match_color_statistics,
    rgb_to_lab,
    translate,
)
from segrefinery.errors import SegRefineryError


def images(seed: int = 0, low: float = 0.2, high: float = 0.8) -> torch.Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


class Source:
    """Two images in memory."""

    reference, space, has_labels = "toy", None, True

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return f"town/{index:03d}"

    def image(self, index: int) -> torch.Tensor:
        return torch.zeros(3, 4, 6, dtype=torch.uint8)

    def label(self, index: int) -> torch.Tensor:
        return torch.full((4, 6), index)


def test_lab_of_known_colors():
    colors = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5]])
    lab = rgb_to_lab(colors.T[None, :, :, None])[0, :, :, 0].T
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [53.39, 0, 0]]
    assert torch.allclose(lab, torch.tensor(known), atol=0.05)


def test_lab_round_trip():
    assert torch.allclose(lab_to_rgb(rgb_to_lab(images(low=0, high=1))), images(low=0, high=1), atol=1e-4)


def test_color_statistics_become_the_styles():
    style = images(1, 0.4, 0.6) * torch.tensor([1.0, 0.8, 0.6])[None, :, None, None]
    found = rgb_to_lab(match_color_statistics(images(low=0.4, high=0.6), style))
    wanted = rgb_to_lab(style)
    assert torch.allclose(found.mean((2, 3)), wanted.mean((2, 3)), atol=0.1)
    assert torch.allclose(found.std((2, 3)), wanted.std((2, 3)), atol=0.2)
    flat = match_color_statistics(torch.full((1, 3, 4, 4), 0.5), style[:1])
    assert torch.allclose(rgb_to_lab(flat)[0, :, 0, 0], wanted[0].mean((1, 2)), atol=0.1)


@pytest.mark.parametrize("kind", ["fda", "color"])
def test_translation_takes_the_styles_brightness_and_keeps_the_structure(kind):
    content, style = images(low=0.2, high=0.5), images(1, 0.5, 0.8)
    found = denormalize(translate(normalize(content), normalize(style), TranslationSettings(kind=kind)))
    assert torch.allclose(found.mean((2, 3)), style.mean((2, 3)), atol=0.03)
    both = torch.stack((found[0].flatten(), content[0].flatten()))
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_nothing_is_lost_under_autocast():
    content, style = normalize(images()), normalize(images(1))
    for kind in ("fda", "color"):
        settings = TranslationSettings(kind=kind)
        with torch.autocast("cpu", torch.bfloat16):
            found = translate(content, style, settings)
        assert torch.equal(found, translate(content, style, settings))


def test_darkness_travels_in_normalised_images():
    night = images(1, 0.0, 0.1)  # below the mean colour: negative once normalised
    found = denormalize(translate(normalize(images(low=0.6, high=0.9)), normalize(night)))
    assert found.mean() < 0.15


def test_folder_matches_by_name(tmp_path):
    (tmp_path / "town").mkdir()
    write_png(torch.full((3, 4, 6), 7, dtype=torch.uint8), str(tmp_path / "town" / "000.png"))
    write_png(torch.full((3, 4, 6), 9, dtype=torch.uint8), str(tmp_path / "001.png"))
    translated = TranslatedFolder(Source(), tmp_path)
    assert [int(translated.image(index)[0, 0, 0]) for index in range(2)] == [7, 9]
    assert translated.label(1).unique().tolist() == [1]
    assert translated.name(0) == "town/000"
    assert translated.files(0)[0].name == "000.png"


def test_folder_names_what_is_wrong(tmp_path):
    with pytest.raises(SegRefineryError, match="not a folder"):
        TranslatedFolder(Source(), tmp_path / "absent")
    write_png(torch.zeros(3, 4, 6, dtype=torch.uint8), str(tmp_path / "000.png"))
    with pytest.raises(SegRefineryError, match="1 of 2 images have no translation: town/001"):
        TranslatedFolder(Source(), tmp_path)
    write_png(torch.zeros(3, 5, 6, dtype=torch.uint8), str(tmp_path / "001.png"))
    with pytest.raises(SegRefineryError, match=r"another size: town/001 \(6 x 5 instead of 6 x 4\)"):
        TranslatedFolder(Source(), tmp_path)
    (tmp_path / "more").mkdir()
    write_png(torch.zeros(3, 4, 6, dtype=torch.uint8), str(tmp_path / "more" / "001.png"))
    with pytest.raises(SegRefineryError, match="several translations: town/001"):
        TranslatedFolder(Source(), tmp_path)
