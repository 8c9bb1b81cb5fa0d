"""Pictures that are read row by row: the pixels are those of the whole, and a broken part is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.decoding import read_image
from segrefinery.data.reading import Reading
from segrefinery.data.resized import Resized
from segrefinery.data.strips import TiffRows, WholePicture, open_picture
from segrefinery.data.transforms import resize_image

tifffile = pytest.importorskip("tifffile")
SIZE = (75, 101)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
BANDS = RNG.integers(0, 4096, (*SIZE, 6), dtype=np.uint16)
WAYS = [
    {},
    {"rowsperstrip": 7},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 16},
    {"compression": "lzw", "tile": (16, 16)},
    {"compression": "zstd", "tile": (16, 32)},
    {"planarconfig": "separate"},
    {"planarconfig": "separate", "tile": (16, 16)},
    {"bigtiff": True, "byteorder": ">"},
    {"compression": "jpeg", "tile": (32, 32)},
    {"compression": "jpeg", "rowsperstrip": 16},
]


def write(path, how, values=RGB):
    planes = np.moveaxis(values, -1, 0) if "planarconfig" in how else values
    tifffile.imwrite(path, planes, photometric="rgb", **how)
    return path


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_rows_of_a_tiff_are_those_of_the_whole(tmp_path, how):
    path = write(tmp_path / "a.tif", how)
    picture, whole = open_picture(path), read_image(path)
    assert isinstance(picture, TiffRows)
    assert picture.size == SIZE
    for top, bottom in ((0, 75), (13, 40), (64, 75), (30, 31)):
        assert torch.equal(picture.rows(top, bottom), whole[:, top:bottom])


@pytest.mark.parametrize("size", [SIZE, (33, 50), (150, 202), (10, 13)])
def test_rows_at_another_size_are_those_of_the_whole(tmp_path, size, monkeypatch):
    monkeypatch.setattr("segrefinery.data.strips.AT_ONCE", 1500)
    picture = open_picture(write(tmp_path / "a.tif", {"tile": (16, 16)}))
    wanted = resize_image(picture.rows(0, 75), size)
    resized, again = Resized(picture, size), Resized(picture, size)
    found = torch.cat([resized.rows(top, min(top + 7, size[0])) for top in range(0, size[0], 7)], dim=1)
    assert int((found.int() - wanted.int()).abs().max()) <= (size != SIZE)
    for top in range(0, size[0] - 5, 3):  # by other parts, with rows in common
        assert torch.equal(again.rows(top, top + 5), found[:, top : top + 5])


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA"])
def test_looks_of_a_tiff_are_those_of_the_whole(tmp_path, mode):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.tif")
    assert torch.equal(open_picture(tmp_path / "a.tif").rows(5, 31), read_image(tmp_path / "a.tif")[:, 5:31])


@pytest.mark.parametrize(
    "reading", [{"range": (0, 4095)}, {"percentile": (2, 98)}, {"bits": 12}], ids=lambda reading: next(iter(reading))
)
@pytest.mark.parametrize("pages", [False, True])
def test_bands_and_ranges_are_those_of_the_whole(tmp_path, reading, pages):
    how = {} if pages else {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(BANDS, -1, 0) if pages else BANDS, photometric="minisblack", **how)
    own = Reading(bands=(4, 3, 2), **reading)
    assert torch.equal(open_picture(tmp_path / "a.tif", own).rows(5, 31), read_image(tmp_path / "a.tif", own)[:, 5:31])


def test_a_measured_range_is_that_of_all_rows(tmp_path):
    ramp = np.linspace(0, 65535, 75).astype(np.uint16)[:, None].repeat(101, 1)
    tifffile.imwrite(tmp_path / "a.tif", ramp, tile=(16, 16))
    assert torch.equal(open_picture(tmp_path / "a.tif").rows(0, 9), read_image(tmp_path / "a.tif")[:, :9])
    tifffile.imwrite(tmp_path / "a.tif", ramp // 16, tile=(16, 16))
    with pytest.raises(SegRefineryError, match="its values end at 4095"):
        open_picture(tmp_path / "a.tif")


def test_a_broken_tile_is_named_and_an_empty_one_is_black(tmp_path):
    path = write(tmp_path / "a.tif", {"compression": "zlib", "tile": (16, 16)})
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    picture = open_picture(path)
    assert torch.equal(picture.rows(20, 40), torch.from_numpy(RGB[20:40]).permute(2, 0, 1))  # the others can be read
    with pytest.raises(SegRefineryError, match=r"a\.tif: image: (truncated|cannot be decoded)"):
        picture.rows(0, 16)
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite([0] * 14 + list(counts.value[14:]))
    assert int(open_picture(path).rows(0, 32).max()) == 0
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SegRefineryError, match=r"a\.tif: image: truncated or damaged"):
        open_picture(path).rows(64, 75)


def test_a_picture_beyond_the_limit_is_read_in_parts_where_it_can_be(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGREFINERY_MAX_PIXELS", "900")
    assert open_picture(write(tmp_path / "a.tif", {"tile": (16, 16)})).rows(0, 2).shape == (3, 2, 101)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr("segrefinery.data.strips.AT_ONCE", 100)
    write(tmp_path / "b.tif", {"compression": "zlib", "rowsperstrip": 75})  # one strip has to be decoded whole
    for name in ("a.png", "b.tif"):
        with pytest.raises(SegRefineryError, match="has 101 x 75 pixels, more than 900"):
            open_picture(tmp_path / name)


def test_other_formats_are_decoded_once_and_when_asked(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    assert isinstance(picture, WholePicture)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert torch.equal(picture.rows(3, 9), read_image(tmp_path / "b.png")[:, 3:9])
    (tmp_path / "a.png").unlink()
    assert torch.equal(
        Resized(picture, (33, 50)).rows(0, 9), resize_image(read_image(tmp_path / "b.png"), (33, 50))[:, :9]
    )
