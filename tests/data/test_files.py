from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures import SIZE, color_png, index_png, palette_png, picture, raw_png
from segrefinery.data.files import ColorMasks, DataError, FileDataset, IdMasks, Sample, image_size, read_ids, read_image
from segrefinery.labels import LabelSpace, lookup_table

IDS = np.arange(24, dtype=np.uint8).reshape(SIZE)


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.jpg", "RGB"), ("a.png", "L"), ("a.png", "RGBA")])
def test_images_of_any_kind_become_8_bit_rgb(tmp_path, name, mode):
    image = read_image(picture(tmp_path / name, mode=mode))
    assert image.shape == (3, *SIZE)
    assert image.dtype == torch.uint8
    assert image.unique().tolist() == [100]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_16_bit_images_are_scaled_to_8(tmp_path, channels):
    values = np.resize(np.array([0, 257, 65535, 128 * 257 + 100], dtype=np.uint16), (2, 2))
    values = np.broadcast_to(values[..., None], (2, 2, 3)) if channels else values
    image = read_image(raw_png(tmp_path / "a.png", values, 16))
    assert image.dtype == torch.uint8
    assert image[2].flatten().tolist() == [0, 1, 255, 128]


def test_palette_images_become_their_colors(tmp_path):
    assert read_image(palette_png(tmp_path / "a.png", IDS))[:, 0, 3].tolist() == [252, 21, 90]


def test_a_phones_photograph_with_further_pictures_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    first, second = Image.new("RGB", (6, 4)), Image.new("RGB", (6, 4), (9, 9, 9))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (3, 6, 4)
    assert image_size(tmp_path / "a.jpg") == (6, 4)


def test_marks_of_rotation_count_in_jpeg_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.webp"):
        Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
        assert read_image(tmp_path / name).shape == (3, 4, 6)
        assert image_size(tmp_path / name) == (4, 6)


def test_the_content_decides_and_not_the_suffix(tmp_path):
    pictures = [Image.new("RGB", (6, 4), (i * 90,) * 3) for i in range(3)]
    for kind in ("JPEG", "WEBP", "GIF"):
        pictures[0].save(tmp_path / "a.png", kind)
        assert read_image(tmp_path / "a.png").shape == (3, 4, 6)
    for kind in ("BMP", "TIFF"):
        pictures[0].save(tmp_path / "a.png", kind)
        with pytest.raises(DataError, match=r"a.png: image: not an image that can be decoded \(PNG, JPEG, WebP\)"):
            read_image(tmp_path / "a.png")
    pictures[0].save(tmp_path / "a.png", "GIF", save_all=True, append_images=pictures[1:])
    with pytest.raises(DataError, match=r"a.png: image: is an animation of 3 pictures; save each as a PNG"):
        read_image(tmp_path / "a.png")


def test_a_photograph_lying_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (3, 6, 4)
    assert image_size(tmp_path / "a.jpg") == (6, 4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_give_indices_not_colors(tmp_path, bits):
    ids = IDS % np.uint8(2**bits - 1)
    assert read_ids(palette_png(tmp_path / "m.png", ids, 2**bits, bits)).tolist() == ids.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_masks_of_few_bits_give_the_stored_numbers(tmp_path, bits):
    ids = IDS % 2**bits
    assert read_ids(raw_png(tmp_path / "m.png", ids, bits)).tolist() == ids.tolist()


def test_16_bit_masks_keep_their_ids(tmp_path):
    ids = IDS.astype(np.uint16) * 1000
    assert read_ids(index_png(tmp_path / "m.png", ids)).int().tolist() == ids.tolist()


def test_one_channel_of_a_16_bit_color_mask(tmp_path):
    values = np.stack([IDS, IDS.astype(np.uint16) * 300, 0 * IDS], axis=-1).astype(np.uint16)
    assert read_ids(raw_png(tmp_path / "m.png", values, 16), channel=0).int().tolist() == IDS.tolist()


def test_a_color_mask_is_not_taken_for_ids_but_grey_stored_as_color_is(tmp_path):
    rgb = np.stack([IDS, IDS + 1, IDS], axis=-1)
    with pytest.raises(DataError, match="colour picture"):
        read_ids(color_png(tmp_path / "m.png", rgb))
    assert read_ids(color_png(tmp_path / "n.png", np.stack([IDS] * 3, axis=-1))).tolist() == IDS.tolist()


def test_color_masks_by_table(tmp_path):
    encoding = ColorMasks({(255, 0, 0): 1, (0, 0, 255): 0, (9, 9, 9): 255})
    rgb = np.array([[[255, 0, 0], [0, 0, 255]], [[9, 9, 9], [0, 0, 255]]])
    assert encoding.decode(color_png(tmp_path / "m.png", rgb)).tolist() == [[1, 0], [255, 0]]
    rgb[0, 0] = 254, 0, 0
    with pytest.raises(DataError, match=r"m.png: mask: holds colours that no class has: \(254, 0, 0\)"):
        encoding.decode(color_png(tmp_path / "m.png", rgb))


def test_color_masks_may_be_palette_pngs(tmp_path):
    encoding = ColorMasks({(255, 0, 90): 0, (254, 7, 90): 1})
    ids = IDS % 2
    assert encoding.decode(palette_png(tmp_path / "m.png", ids, 2, 1)).tolist() == ids.tolist()
    assert encoding.decode(palette_png(tmp_path / "n.png", ids)).tolist() == ids.tolist()


@pytest.mark.parametrize("part", [0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_images_name_the_file(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"a\{suffix}: image: truncated or damaged"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, read_ids, image_size):
        with pytest.raises(DataError, match=r"a\.png"):
            read(tmp_path / "a.png")
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "b.png")


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(DataError("a.png", "mask", "is odd", "mend it")))
    assert (str(error), error.remedy) == ("a.png: mask: is odd; mend it.", "mend it")


def one(tmp_path, ids: np.ndarray) -> FileDataset:
    space = LabelSpace.of("s", ("road", "car"))
    sample = Sample("a", picture(tmp_path / "a.png"), index_png(tmp_path / "m.png", ids))
    return FileDataset("r", [sample], space, IdMasks(lookup_table({0: "road", 1: "car", 9: None}, space)))


def test_label_checks_size_and_ids(tmp_path):
    ids = np.array(IDS % 2)
    assert one(tmp_path, ids).label(0).tolist() == ids.tolist()
    with pytest.raises(DataError, match=r"m.png: mask: is 6 x 3, its image a.png 6 x 4 pixels"):
        one(tmp_path, ids[:3]).label(0)
    ids[1, 1], ids[2, 2], ids[3, 3] = 7, 9, 200
    with pytest.raises(DataError, match=r"m.png: mask: holds ids that no class has: 7, 200"):
        one(tmp_path, ids).label(0)
