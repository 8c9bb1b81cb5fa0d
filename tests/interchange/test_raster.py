"""Pictures that are written by rows: read back by other libraries, with their place on earth."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segrefinery.data.decoding import open_tiff, read_ids
from segrefinery.data.tiff import GeoTag
from segrefinery.interchange.raster import note_of, scaled, write_png, write_tiff

SIZE = (700, 555)
LABEL = np.random.default_rng(0).integers(0, 5, SIZE, dtype=np.uint8)
COLORS = [(10 * i, i, 255 - i) for i in range(5)]
KEYS = GeoTag(34735, 3, 8, (1, 1, 0, 1, 1025, 0, 1, 1))
POINTS = GeoTag(34735, 3, 8, (1, 1, 0, 1, 1025, 0, 1, 2))
SCALE = GeoTag(33550, 12, 3, (0.5, 0.25, 0.0))
TIES = GeoTag(33922, 12, 6, (10.0, 20.0, 0.0, 1000.0, 2000.0, 0.0))
MATRIX = GeoTag(34264, 12, 16, (0.5, 0.1, 0.0, 1000.0, 0.2, -0.25, 0.0, 2000.0, *(0.0,) * 4, 0.0, 0.0, 0.0, 1.0))


def strips():
    return (LABEL[top : top + 37] for top in range(0, 700, 37))


def test_a_png_by_rows_is_read_by_pillow(tmp_path):
    write_png(tmp_path / "a.png", strips(), SIZE, COLORS, '{"made": "so"}')
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.array(picture), LABEL)
        assert np.array_equal(np.array(picture.convert("RGB"))[0], np.array(COLORS)[LABEL[0]])
    assert np.array_equal(read_ids(tmp_path / "a.png").numpy(), LABEL)
    assert note_of(tmp_path / "a.png") == '{"made": "so"}'
    write_png(tmp_path / "b.png", strips(), SIZE)
    assert np.array_equal(np.array(Image.open(tmp_path / "b.png")), LABEL)
    assert note_of(tmp_path / "b.png") == ""


def test_a_tiff_by_rows_is_read_by_tifffile_with_its_place(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    write_tiff(tmp_path / "a.tif", strips(), SIZE, COLORS, (SCALE, TIES, KEYS), "made so")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray(), LABEL)
        assert page.tile == (256, 256)
        assert page.geotiff_tags["ModelPixelScale"] == [0.5, 0.25, 0.0]
        assert (page.colormap[:, 3] // 257).tolist() == list(COLORS[3])
    assert open_tiff(tmp_path / "a.tif", "image").geo == (SCALE, TIES, KEYS)
    assert note_of(tmp_path / "a.tif") == "made so"
    assert np.array_equal(read_ids(tmp_path / "a.tif").numpy(), LABEL)


def place(geo, row, column):
    """Where a corner or centre of a pixel lies, by the rules of GeoTIFF."""
    tags = {tag.code: tag.value for tag in geo}
    if 34264 in tags:
        matrix = np.array(tags[34264]).reshape(4, 4)
        return (matrix @ [column, row, 0, 1])[:2]
    (sx, sy, _), (i, j, _, x, y, _) = tags[33550], tags[33922]
    return np.array([x + (column - i) * sx, y - (row - j) * sy])


@pytest.mark.parametrize("geo", [(SCALE, TIES), (MATRIX,)])
@pytest.mark.parametrize("keys", [KEYS, POINTS])
def test_places_stay_where_they_are_at_another_size(geo, keys):
    larger = scaled((*geo, keys), (2.0, 3.0))
    shift = 0.5 if keys is POINTS else 0.0  # then pixel 0 is the centre of the first
    for row, column in ((0, 0), (40, 100), (7, 3)):
        wanted = place(geo, row, column)
        found = place(larger, (row + shift) * 2 - shift, (column + shift) * 3 - shift)
        np.testing.assert_allclose(found, wanted)
    assert scaled(geo, (1.0, 1.0)) == geo
