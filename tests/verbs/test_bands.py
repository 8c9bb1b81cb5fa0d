"""Images of other bands than three: read, trained on, saved with the model, and refused where they differ."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segrefinery as api
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import shown
from segrefinery.data.datasets import bands_of, open_dataset
from segrefinery.data.photometric import jitter_colors
from segrefinery.models import ModelSettings, build_model
from segrefinery.verbs.bands import band_statistics

tifffile = pytest.importorskip("tifffile")
SIZE = (64, 96)


def fields(folder: Path, bands: int, images: int = 2, seed: int = 0) -> str:
    """Images whose last band alone shows the class."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(images):
        mask = np.zeros(SIZE, dtype=np.uint8)
        mask[:, : 20 + 10 * number] = 1
        values = random.integers(90, 110, (*SIZE, bands), dtype=np.uint8)
        values[..., -1] = 50 + 150 * mask
        how = {"photometric": "minisblack"} | ({"planarconfig": "contig"} if bands > 1 else {})
        tifffile.imwrite(folder / f"images/{number}.tif", values if bands > 1 else values[..., 0], **how)
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
    (folder / "dataset.yaml").write_text(
        "name: fields\nimages: images/{name}.tif\nmasks: masks/{name}.png\nclasses: [soil, crop]\n"
        f"bands: {list(range(1, bands + 1))}\n"
    )
    return f"folder:{folder}"


@pytest.mark.parametrize("name", ["small", "efficientnet_lite0", "daformer:resnet18", "hrda:small"])
@pytest.mark.parametrize("bands", [1, 2, 6])
def test_networks_read_any_number_of_bands(name, bands):
    network = build_model(ModelSettings(name=name, weights="none", bands=bands), 3).eval()
    assert network(torch.randn(1, bands, 64, 64)).logits.shape[1] == 3
    assert len(network.normalization.mean) == bands
    with pytest.raises(RuntimeError):
        network(torch.randn(1, 3, 64, 64))


def test_the_first_layer_is_widened_as_timm_does_it():
    def first(bands):
        torch.manual_seed(0)
        return build_model(ModelSettings(name="small", weights="none", bands=bands), 3).stem[0][0].weight

    plain = first(3)
    torch.testing.assert_close(first(1), plain.sum(dim=1, keepdim=True))
    torch.testing.assert_close(first(4), torch.cat([plain, plain[:, :1]], dim=1) * 3 / 4)
    torch.testing.assert_close(first(6), torch.cat([plain, plain], dim=1) / 2)


def test_a_network_of_another_library_keeps_three(tmp_path):
    with pytest.raises(SegRefineryError, match="torchvision:fcn_resnet50 reads three bands, and the images have 4"):
        build_model(ModelSettings(name="torchvision:fcn_resnet50", weights="none", bands=4), 2)


def test_colours_change_and_other_bands_do_not():
    image = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = jitter_colors(image, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(changed[3:], image[3:])
    assert torch.equal(changed[:3], jitter_colors(image[:3], 0.5, torch.Generator().manual_seed(1)))
    assert not torch.equal(changed[:3], image[:3])
    assert torch.equal(jitter_colors(image[:2], 0.5, torch.Generator().manual_seed(1)), image[:2])
    assert torch.equal(shown(image), image[:3])
    assert shown(image[:2]).shape == (3, 8, 8)


def test_statistics_are_those_of_the_images(tmp_path):
    dataset = open_dataset(fields(tmp_path / "a", 2))
    values = torch.stack([dataset.image(0), dataset.image(1)]).double() / 255
    mean, std = band_statistics(dataset)
    np.testing.assert_allclose(mean, values.mean(dim=(0, 2, 3)))
    np.testing.assert_allclose(std, values.std(dim=(0, 2, 3), correction=0))


@pytest.mark.parametrize(("bands", "recipe"), [(1, "source_only"), (5, "self_training")])
def test_a_run_learns_from_the_bands_and_its_model_keeps_them(tmp_path, bands, recipe):
    source, target = fields(tmp_path / "source", bands), fields(tmp_path / "target", bands, seed=1)
    changes = ["stages.source.steps=50", "data.crop=[32,32]", "data.batch=2", "data.workers=0", "data.photometric=0.2"]
    changes += ["stages.adapt.steps=3"] if recipe == "self_training" else []
    (back := tmp_path / "back").mkdir()
    changes += ["target_data.crop=[32,32]", "target_data.workers=0", "model.name=small"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = api.adapt(recipe, source, target, tmp_path / "run", evaluation=target, scale="small", overrides=changes)
        model = api.load(run, "cpu")
        assert model.bands == len(model.data.pixel_mean) == bands
        scores = api.evaluate(model, target)
        (_, image, _), *_ = api.predict(model, target)
        picked = api.audit(run, target, count=2).picked
        for one in picked:  # the masks of the target, as somebody would label its images
            Image.fromarray(open_dataset(target).label(one.index).byte().numpy()).save(back / f"{one.stem}.png")
        assert api.audit(run, target, masks=back).remarks[-1].endswith(f"--labels folder:{run}/audit/labelled")
        assert len(api.compare([run], target)) >= 1
        assert f"B x {bands} x H x W" in api.export(run, tmp_path / "model.pt2", "torch").note["input"]
    labelled = open_dataset(f"folder:{run}/audit/labelled")  # may teach in a run of as many bands
    for place, one in enumerate(picked):
        assert torch.equal(labelled.image(place), open_dataset(target).image(one.index))
    assert image.shape[0] == bands
    assert scores["miou"] > 0.6  # by the last band alone can they be told apart
    assert (run / "report.html").exists()
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    with pytest.raises(SegRefineryError, match=f"its images have 3 bands and the model reads {bands}"):
        list(api.predict(model, tmp_path / "a.png"))
    Image.new("RGB", (96, 64)).save(tmp_path / "b.png")
    for verb in (
        lambda on: api.audit(run, on, tmp_path / "other"), lambda on: api.compare([run], on),
        lambda on: api.export(run, tmp_path / "other.pt2", "torch", check=on),
    ):  # fmt: skip
        with pytest.raises(SegRefineryError, match=f"its images have 3 bands and the model reads {bands}"):
            verb(f"{tmp_path}/*.png")


def test_bands_that_differ_are_an_error_before_training(tmp_path):
    six, four = fields(tmp_path / "six", 6), fields(tmp_path / "four", 4)
    assert bands_of(open_dataset(six)) == 6
    with pytest.raises(SegRefineryError, match=r"four: bands: its images have 4 bands, those of .*six 6"):
        api.adapt("source_only", six, four, tmp_path / "run", scale="small")
    with pytest.raises(SegRefineryError, match=r"its images have 4 bands, those of .*six 6"):
        open_dataset(f"{six} + {four}")
    checked = api.check(six, four, recipe="source_only", scale="small")
    assert not checked.ok
    changes = ["data.pixel_mean=[0.5,0.5,0.5]", "data.pixel_std=[0.2,0.2,0.2]"]
    other = fields(tmp_path / "other", 6, seed=1)
    with pytest.raises(SegRefineryError, match=r"data\.pixel_mean: has 3 numbers, and .* has 6 bands"):
        api.adapt("source_only", six, other, tmp_path / "run2", scale="small", overrides=changes)


def test_the_example_of_the_documents(tmp_path):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    section = page.partition("### Other bands than three\n")[2]
    reference = fields(tmp_path / "fields", 6)
    (tmp_path / "fields/dataset.yaml").write_text(section.partition("```yaml\n")[2].partition("```")[0])
    dataset = open_dataset(reference)
    assert f"has images of {dataset.image(0).shape[0]} bands" in section
    stored = torch.from_numpy(tifffile.imread(tmp_path / "fields/images/0.tif")).permute(2, 0, 1)
    assert torch.equal(dataset.image(0), stored[[2, 1, 0, 3, 4, 5]])
    assert torch.equal(dataset.picture(0).rows(3, 9), dataset.image(0)[:, 3:9])
