"""Pictures beyond 8-bit PNG and JPEG: read as their own library reads them, or refused by name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures import raw_png
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.decoding import decoded, image_size, read_ids, read_image
from segrefinery.data.reading import Reading, colors_of

SIZE = (24, 40)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
BANDS = RNG.integers(0, 4096, (*SIZE, 6), dtype=np.uint16)


@pytest.fixture
def tifffile():
    return pytest.importorskip("tifffile")


def hwc(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_bmp_is_read_as_pillow_reads_it(tmp_path, mode):
    picture = Image.fromarray(RGB).convert(mode)
    picture.save(tmp_path / "a.bmp")
    assert np.array_equal(hwc(open_dataset(str(tmp_path)).image(0)), np.array(picture.convert("RGB")))
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:-30])
    with pytest.raises(SegRefineryError, match="truncated or damaged"):
        read_image(tmp_path / "a.bmp")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "tile": (16, 16)},
        {"compression": "zstd", "tile": (16, 16)},
        {"planarconfig": "separate"},
        {"bigtiff": True, "byteorder": ">"},
    ],
)
def test_tiff_is_read_as_tifffile_reads_it(tmp_path, tifffile, how):
    planes = np.moveaxis(RGB, -1, 0) if "planarconfig" in how else RGB
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", **how)
    assert np.array_equal(hwc(read_image(tmp_path / "a.tif")), RGB)
    assert image_size(tmp_path / "a.tif") == SIZE


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA"])
def test_tiff_of_pillows_looks_as_pillow_shows_it(tmp_path, tifffile, mode):
    picture = Image.fromarray(RGB).convert(mode)
    picture.save(tmp_path / "a.tif")
    assert np.array_equal(hwc(read_image(tmp_path / "a.tif")), np.array(picture.convert("RGB")))


def test_tiff_with_jpeg_inside_looks_as_pillow_shows_it(tmp_path, tifffile):
    smooth = Image.fromarray(RGB).resize((400, 240), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.tif", compression="jpeg")
    with Image.open(tmp_path / "a.tif") as shown:
        difference = hwc(read_image(tmp_path / "a.tif")).astype(int) - np.array(shown.convert("RGB"))
    assert np.abs(difference).max() <= 4


def test_smaller_copies_of_a_tiff_are_passed_over(tmp_path, tifffile):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, photometric="rgb")
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(hwc(read_image(tmp_path / "a.tif")), RGB)


def described(folder, lines: str):
    (folder / "dataset.yaml").write_text(f"images: '{{name}}.tif'\n{lines}\n")
    return open_dataset(f"folder:{folder}")


@pytest.mark.parametrize("separate", [False, True])
def test_bands_are_chosen_and_scaled_by_the_stated_range(tmp_path, tifffile, separate):
    if separate:
        tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(BANDS, -1, 0), photometric="minisblack")  # a page a band
    else:
        tifffile.imwrite(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    image = described(tmp_path, "bands: [4, 3, 2]\nrange: [0, 4095]").image(0)
    expected = np.rint(BANDS[..., [3, 2, 1]].astype(np.float32) / 4095 * 255)
    assert np.array_equal(hwc(image), expected.astype(np.uint8))


def test_bands_of_a_png_are_chosen_too(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(hwc(read_image(tmp_path / "a.png", Reading(bands=(3, 2, 1)))), RGB[..., ::-1])


def test_a_measured_range_is_that_of_each_pictures_bands(tmp_path, tifffile):
    values = (BANDS[..., :3] * np.array([1, 10, 0.001])).astype(np.float32)
    values[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    image = hwc(described(tmp_path, "percentile: [2, 98]").image(0))
    assert image[0, 0].tolist() == [0, 0, 0]
    low, high = np.nanpercentile(values, (2, 98), axis=(0, 1))
    expected = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1)) * 255
    assert np.abs(image - expected).max() < 1


def test_numbers_below_and_above_the_range_are_cut(tmp_path, tifffile):
    values = np.array([[-5.0, 0.0, 0.5, 1.0, 7.0, np.nan]], dtype=np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert described(tmp_path, "range: [0, 1]").image(0)[0].tolist() == [[0, 0, 128, 255, 255, 0]]


def test_ids_of_a_tiff_are_a_mask_unless_it_is_lossy(tmp_path, tifffile):
    ids = RNG.integers(0, 900, SIZE).astype(np.int32)
    tifffile.imwrite(tmp_path / "a.tif", ids, compression="zlib")
    assert np.array_equal(read_ids(tmp_path / "a.tif").numpy(), ids)
    two, lossy = np.stack([ids, ids], axis=-1), {"compression": "jpeg"}
    wrong = [(ids.astype(np.float32), {}), (two, {"planarconfig": "contig"}), (RGB[..., 0], lossy), (RGB, lossy)]
    for number, (values, how) in enumerate(wrong):
        tifffile.imwrite(tmp_path / f"{number}.tif", values, **how)
        with pytest.raises(
            SegRefineryError, match="save masks as whole numbers in one band, without JPEG, or as RGB of 8 bits"
        ):
            read_ids(tmp_path / f"{number}.tif")
    tifffile.imwrite(tmp_path / "b.tif", ids + (1 << 16))
    with pytest.raises(SegRefineryError, match="ids up to 65535"):
        read_ids(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.minimum(ids, 1).astype(np.int16) - 1)
    with pytest.raises(SegRefineryError, match=r"c.tif: mask: holds the id -1; give ids from 0 to 65535, 255 for what"):
        read_ids(tmp_path / "c.tif")


def test_colours_of_a_tiff_are_a_mask(tmp_path, tifffile):
    for colored in (RGB, RGB[..., 0]):  # grey too: black and white are colours
        tifffile.imwrite(tmp_path / "a.tif", colored, compression="zlib")
        values = decoded(tmp_path / "a.tif", "mask", rgb=True)
        assert np.array_equal(values, colored if colored.ndim == 3 else np.stack([colored] * 3, axis=-1))
    tifffile.imwrite(tmp_path / "a.tif", RGB)
    with pytest.raises(SegRefineryError, match="is a colour picture, but its data set declares ids"):
        read_ids(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PNG"])
def test_a_palettes_indices_and_colours_are_a_mask(tmp_path, kind):
    ids = RNG.integers(0, 3, SIZE).astype(np.uint8)
    colors = np.array([[255, 0, 0], [0, 0, 0], [9, 8, 7]], np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette(colors.tobytes())
    picture.save(tmp_path / "a", kind)
    assert np.array_equal(colors[ids], decoded(tmp_path / "a", "mask", rgb=True))
    assert np.array_equal(ids, read_ids(tmp_path / "a").numpy())


@pytest.mark.parametrize(
    ("values", "how", "lines", "message"),
    [
        (BANDS, {"planarconfig": "contig"}, "", "has 6 bands, and nothing says which are red, green and blue"),
        (BANDS[..., :4], {"planarconfig": "contig"}, "range: [0, 4095]", "has 4 bands, and nothing says"),
        (BANDS[..., :3], {"photometric": "rgb"}, "bands: [4, 3, 2]", "has 3 bands, band 4 is asked for"),
        (BANDS[..., :3], {"photometric": "rgb"}, "", "its values end at 40.*, or their range"),
        (RGB / np.float32(255), {"photometric": "rgb"}, "", "holds float32 numbers, 0 to 1, of no stated range"),
        (BANDS[..., 0].astype(np.int16), {}, "", "holds int16 numbers"),
    ],
)
def test_a_tiff_whose_numbers_nobody_explains_is_refused(tmp_path, tifffile, values, how, lines, message):
    tifffile.imwrite(tmp_path / "a.tif", values, **({"photometric": "minisblack"} | how))
    with pytest.raises(SegRefineryError, match=message):
        described(tmp_path, lines).image(0)


def test_bands_that_differ_between_files_are_refused(tmp_path, tifffile):
    for name, count in (("a", 6), ("b", 4)):
        values = BANDS[..., :count]
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack", planarconfig="contig")
    dataset = described(tmp_path, "bands: [3, 2, 1]\nrange: [0, 4095]")
    assert dataset.image(0).shape == (3, *SIZE)
    with pytest.raises(SegRefineryError, match=r"b\.tif: image: has 4 bands, the first image a\.tif 6"):
        dataset.image(1)


def test_a_tiff_of_several_pictures_or_cut_short_is_refused(tmp_path, tifffile):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, photometric="rgb")
        file.write(RGB[::2, ::2], photometric="rgb")
    with pytest.raises(SegRefineryError, match="holds 2 pictures of different sizes: 12 x 20 x 3 and 24 x 40 x 3"):
        read_image(tmp_path / "a.tif")
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "b.tif", RGB, photometric="rgb", compression=compression)
        whole = (tmp_path / "b.tif").read_bytes()
        for end in (9, len(whole) // 2, len(whole) - 40):
            (tmp_path / "b.tif").write_bytes(whole[:end])
            with pytest.raises(SegRefineryError, match=r"b\.tif: image: "):
                read_image(tmp_path / "b.tif")


def test_a_tiff_beyond_the_limit_is_refused_from_its_header(tmp_path, tifffile, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    monkeypatch.setenv("SEGREFINERY_MAX_PIXELS", "900")
    with pytest.raises(SegRefineryError, match="has 40 x 24 pixels, more than 900"):
        image_size(tmp_path / "a.tif")


def test_without_tifffile_the_extra_is_named(tmp_path, tifffile, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(SegRefineryError, match=r"pip install 'segrefinery\[tiff\]'"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("bits: 12\nrange: [0, 9]", "bits and range both say the range"),
        ("range: [9, 0]", "give the smaller number first"),
        ("percentile: [2, 101]", "less than or equal to 100"),
        ("bands: [0, 1, 2]", "greater than or equal to 1"),
        ("bands: 4", r"write a list, for instance \[4\]"),
    ],
)
def test_settings_of_the_range_that_contradict_each_other(tmp_path, lines, message):
    with pytest.raises(SegRefineryError, match=message):
        described(tmp_path, lines)


def test_a_range_replaces_the_guess_about_16_bits(tmp_path):
    raw_png(tmp_path / "a.png", np.full((2, 3, 3), 1000), 16)
    assert int(read_image(tmp_path / "a.png", Reading(range=(0, 2000)))[0, 0, 0]) == 128


@pytest.mark.parametrize(
    "reading",
    [
        Reading(range=(100, 3000), bands=(4, 3, 2, 1, 5, 6)),
        Reading(percentile=(2, 98), bands=(1, 2, 3, 4, 5, 6)),
        Reading(percentile=(2, 98), bands=(3,)),
        Reading(bits=12, bands=(3, 2, 1)),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_numbers_that_are_looked_up_are_those_that_are_computed(tmp_path, monkeypatch, reading, kind):
    values = RNG.integers(0, 256 if kind is np.uint8 else 4096, (200, 300, 6)).astype(kind)
    looked_up = colors_of(tmp_path, values, reading)
    monkeypatch.setattr("segrefinery.data.reading._few_numbers", lambda values: False)
    assert np.array_equal(looked_up, colors_of(tmp_path, values, reading))
