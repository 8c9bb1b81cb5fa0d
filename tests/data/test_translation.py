import pytest
import torch
from pydantic import ValidationError
from torchvision.io import write_png

from data.memory import MemorySource
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.randomness import generator
from segrefinery.data.batch import TranslatedBatch
from segrefinery.data.cached import with_cache
from segrefinery.data.loader import WithTranslations, training_batches
from segrefinery.data.photometric import denormalize, normalize
from segrefinery.data.sampling import UniformSampler
from segrefinery.data.transforms import DataSettings
from segrefinery.data.translated import TranslatedFolder
from segrefinery.data.translation import (
    TranslationSettings,
    lab_to_rgb,
    match_color_statistics,
    rgb_to_lab,
    translate,
    translate_at_random,
)


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


def test_errors_of_a_folder_name_the_field_that_names_it(tmp_path):
    field = "stages.align.translation.folder"
    with pytest.raises(SegRefineryError, match=r"absent: stages\.align\.translation\.folder: is not a folder; give"):
        TranslatedFolder(Source(), tmp_path / "absent", field)
    with pytest.raises(SegRefineryError, match=r"stages\.align\.translation\.folder: 2 of 2 images have no"):
        TranslatedFolder(Source(), tmp_path, field)
    with pytest.raises(SegRefineryError, match="translated: 2 of 2 images have no"):
        TranslatedFolder(Source(), tmp_path)


def test_a_folder_and_its_kind_go_together():
    assert TranslationSettings(kind="folder", folder="there").folder == "there"
    with pytest.raises(ValidationError, match="needs folder: PATH"):
        TranslationSettings(kind="folder")
    with pytest.raises(ValidationError, match="reads no folder"):
        TranslationSettings(kind="fda", folder="there")
    with pytest.raises(ValueError, match="translated already"):
        translate(images(), images(1), TranslationSettings(kind="folder", folder="there"))


def test_styles_are_drawn_among_all_target_images():
    content = normalize(images())
    styles = torch.cat([normalize(images(seed, 0.3 * seed, 0.3 * seed + 0.2)) for seed in range(3)])
    settings = TranslationSettings(kind="color")
    seen = set()
    for seed in range(40):
        found = translate_at_random(content, styles, [generator(seed, 0), generator(seed, 1)], settings)
        for place, image in enumerate(found):
            one = content[place, None].expand(len(styles), -1, -1, -1)
            alike = (translate(one, styles, settings) - image).abs().amax(dim=(1, 2, 3)) < 1e-5
            assert alike.sum() == 1
            seen.add((place, int(alike.nonzero())))
    assert len(seen) == 2 * len(styles)


@pytest.mark.parametrize("kind", ["fda", "color"])
def test_a_style_of_another_size_will_do(kind):
    content, style = normalize(images()), normalize(images(1)[:1, :, :10, :12])
    settings = TranslationSettings(kind=kind)
    found = translate_at_random(content, style, [generator(0), generator(1), generator(2)], settings)
    assert found.shape == content.shape
    assert found.isfinite().all()


class Negatives(MemorySource):
    """The source's images in inverted colours."""

    has_labels = False

    def image(self, index: int) -> torch.Tensor:
        return 255 - super().image(index)


def crops(with_translations=True, workers=0, **settings):
    settings = DataSettings(crop=(16, 24), scale=(0.7, 1.4), workers=workers, batch=4, **settings)
    sizes = [(24, 32), (40, 32), (24, 48)]
    source, negatives = (with_cache(part, settings) for part in (MemorySource(sizes), Negatives(sizes)))
    source = WithTranslations(source, negatives) if with_translations else source
    return list(training_batches(source, settings, UniformSampler(3, seed=0), steps=3))


@pytest.mark.parametrize("settings", [{}, {"short_side": 20}, {"short_side": 20, "cache": True, "workers": 2}])
def test_a_translation_is_cropped_as_its_image(settings):
    for batch in crops(**settings):
        assert isinstance(batch, TranslatedBatch)
        shown = batch.label != 255
        image, translated = denormalize(batch.image), denormalize(batch.translated)
        both = (image + translated).movedim(1, -1)[shown]
        assert len(both)
        assert torch.allclose(both, torch.ones_like(both), atol=2 / 255)  # each was rounded when it was resized


def test_translations_change_nothing_else_and_get_no_jitter():
    jitter = {"photometric": 0.5, "blur": 0.5}
    plain, other = crops(False, **jitter), crops(**jitter)
    assert all(torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in zip(plain, other))
    assert all(torch.equal(a.translated, b.translated) for a, b in zip(crops(), other))
    assert not any(torch.equal(a.image, b.image) for a, b in zip(crops(), other))


def test_a_part_of_a_batch_keeps_its_translations():
    batch = crops()[0]
    part = batch[1:3].to("cpu")
    assert torch.equal(part.translated, batch.translated[1:3])
    assert torch.equal(part.image, batch.image[1:3])
