"""Image processors as transformers saves them: a model reads the pixels that its own processor makes."""

import json

import pytest
import torch

from models.foreign.tiny import CLASSES, saved
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.transforms import normalize
from segrefinery.models.start import read_start

KINDS = {
    "segformer": "SegformerImageProcessor", "dpt": "DPTImageProcessor", "beit": "BeitImageProcessor",
    "mobilevit": "MobileViTImageProcessor", "mobilenet_v2": "MobileNetV2ImageProcessor",
}  # fmt: skip
GIVEN = {
    "its defaults": {},
    "not normalised": {"do_normalize": False},
    "a mean of its own": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    "from -1 to 1": {"do_normalize": False, "rescale_factor": 1 / 127.5},
}


def pixels_of(start, image):
    """What the network is given, in the order of channels that it wants."""
    assert start.normalization is not None
    read = normalize(image[None], *start.normalization)[0]
    return read.flip(0) if start.network.options["bgr"] else read


def processed(folder, image):
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    same_size = {name: False for name in ("do_resize", "do_center_crop") if hasattr(processor, name)}
    return processor(image, return_tensors="pt", **same_size)["pixel_values"][0]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("family", KINDS)
def test_pixels_are_those_of_the_librarys_processor(tmp_path, family, given):
    """MobileViT's keeps a mean that it never uses, and does not write that it does not."""
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, family)
    getattr(transformers, KINDS[family])(**GIVEN[given]).save_pretrained(tmp_path)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pixels_of(read_start(tmp_path), image), processed(tmp_path, image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", KINDS)
def test_what_a_file_leaves_out_is_the_default_of_its_kind(tmp_path, family):
    saved(tmp_path, family, {"image_processor_type": KINDS[family]})
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    image[0] = 10
    torch.testing.assert_close(pixels_of(read_start(tmp_path), image), processed(tmp_path, image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [*KINDS, "mobilevitv2", "upernet"])
def test_without_a_file_the_librarys_default_for_such_models_is_taken_and_said(tmp_path, family):
    """MobileViT's turns the channels round."""
    transformers = pytest.importorskip("transformers")
    kind = KINDS.get(family, "MobileViTImageProcessor" if family == "mobilevitv2" else "SegformerImageProcessor")
    saved(tmp_path, family)
    start = read_start(tmp_path)
    assert any(f"pixels are read as {kind} does by default" in note for note in start.notes)
    assert any("blue first" in note for note in start.notes) == (kind == "MobileViTImageProcessor")
    getattr(transformers, kind)().save_pretrained(tmp_path)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pixels_of(start, image), processed(tmp_path, image), atol=1e-5, rtol=1e-5)


def test_a_kind_that_the_library_does_not_know_is_read_as_it_says(tmp_path):
    saved(tmp_path, "segformer", {"image_processor_type": "Mine", "image_mean": [0.1, 0.2, 0.3], "image_std": 0.5})
    start = read_start(tmp_path)
    assert (start.pixel_mean, start.pixel_std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1, 2, 255)])
def test_names_that_are_not_numbered_as_the_logits_are_not_taken(tmp_path, numbers):
    saved(tmp_path, "segformer")
    config = json.loads((tmp_path / "config.json").read_text())
    names = [*CLASSES, "void"][: len(numbers)]
    config["id2label"] = {str(number): name for number, name in zip(numbers, names, strict=True)}
    config["label2id"] = {name: number for number, name in zip(numbers, names, strict=True)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = read_start(tmp_path)
    assert (start.num_classes, start.classes) == (3, None)


@pytest.mark.parametrize("bands", [1, 4])
def test_other_bands_than_three_are_one_line(tmp_path, bands):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_channels=bands, hidden_sizes=[8, 16, 20, 32], depths=[1, 1, 1, 1])
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    with pytest.raises(SegRefineryError, match=rf"reads images of {bands} bands \(num_channels\)"):
        read_start(tmp_path)
