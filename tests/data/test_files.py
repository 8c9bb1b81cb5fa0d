from __future__ import annotations

import os
import pickle
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from data.pictures import SIZE, color_png, index_png, palette_png, picture, raw_png
from segrefinery.core.errors import SegRefineryError
from segrefinery.data import png
from segrefinery.data.decoding import DataError, image_size, read_ids, read_image
from segrefinery.data.files import ColorMasks, FileDataset, IdMasks, Sample
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
    for kind in ("JPEG", "WEBP", "GIF", "BMP"):
        pictures[0].save(tmp_path / "a.png", kind)
        assert read_image(tmp_path / "a.png").shape == (3, 4, 6)
    for kind in ("PPM", "JPEG2000"):
        pictures[0].save(tmp_path / "a.png", kind)
        with pytest.raises(DataError, match=r"a.png: image: not an image that can be decoded \(PNG, JPEG, WebP, BMP"):
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
    assert encoding.decode(Sample("m", tmp_path, color_png(tmp_path / "m.png", rgb))).tolist() == [[1, 0], [255, 0]]
    rgb[0, 0] = 254, 0, 0
    with pytest.raises(DataError, match=r"m.png: mask: holds colours that no class has: \(254, 0, 0\)"):
        encoding.decode(Sample("m", tmp_path, color_png(tmp_path / "m.png", rgb)))


def test_color_masks_may_be_palette_pngs(tmp_path):
    encoding = ColorMasks({(255, 0, 90): 0, (254, 7, 90): 1})
    ids = IDS % 2
    assert encoding.decode(Sample("m", tmp_path, palette_png(tmp_path / "m.png", ids, 2, 1))).tolist() == ids.tolist()
    assert encoding.decode(Sample("m", tmp_path, palette_png(tmp_path / "n.png", ids))).tolist() == ids.tolist()


CLEAR = np.array(IDS % 3 == 2)
"""The pixels of a mask that are transparent; those beneath are the id 2, which nobody declares."""
BANDS = {"grey": lambda ids: ids, "colors": lambda ids: np.stack([ids] * 3, axis=-1)}


def with_alpha(path, values, bits):
    """A mask whose alpha is 0, 1, and more: only 0 is transparent."""
    alpha = np.where(CLEAR, 0, np.where(IDS % 2, 1, 2**bits - 1))[..., None]
    stored = np.concatenate([np.atleast_3d(values), alpha], axis=-1)
    if path.suffix == ".tif":
        photometric = "rgb" if stored.shape[2] > 2 else "minisblack"
        options = {"photometric": photometric, "planarconfig": "contig", "extrasamples": ["unassalpha"]}
        tifffile.imwrite(path, stored.astype(np.uint8), **options)
        return path
    if bits == 16:
        return raw_png(path, stored, bits)
    Image.fromarray(stored.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("bands", [*BANDS])
@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 8)])
def test_transparent_pixels_of_masks_of_ids_are_what_the_data_set_says(tmp_path, bands, suffix, bits):
    mask = with_alpha(tmp_path / f"m{suffix}", BANDS[bands](IDS % 3), bits)
    space, sample = LabelSpace.of("s", ("road", "car", "sky")), Sample("m", mask, mask)
    table = lookup_table({0: "road", 1: "car"}, space)
    assert IdMasks(table, transparent="ignore").decode(sample).tolist() == np.where(CLEAR, 255, IDS % 3).tolist()
    whole = lookup_table({0: "road", 1: "car", 2: "sky"}, space)
    assert IdMasks(whole, transparent="keep").decode(sample).tolist() == (IDS % 3).tolist()
    with pytest.raises(DataError, match=r"33\.3 % of its pixels.*transparent: ignore .*transparent: keep"):
        IdMasks(whole).decode(sample)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [*BANDS])
def test_transparent_pixels_of_masks_of_colours_are_what_the_data_set_says(tmp_path, bands, suffix):
    sample = Sample("m", tmp_path, with_alpha(tmp_path / f"m{suffix}", BANDS[bands](IDS % 3), 8))
    colors = {(0, 0, 0): 0, (1, 1, 1): 1}
    assert ColorMasks(colors, transparent="ignore").decode(sample).tolist() == np.where(CLEAR, 255, IDS % 3).tolist()
    whole = {**colors, (2, 2, 2): 2}
    assert ColorMasks(whole, transparent="keep").decode(sample).tolist() == (IDS % 3).tolist()
    with pytest.raises(DataError, match=r"33\.3 % of its pixels are transparent"):
        ColorMasks(whole).decode(sample)


def test_a_mask_whose_alpha_hides_nothing_needs_no_word_and_an_entry_of_a_palette_is_an_id(tmp_path):
    mask = Image.fromarray(np.stack([IDS % 2] * 3 + [IDS * 0 + 9], axis=-1).astype(np.uint8), "RGBA")
    mask.save(tmp_path / "m.png")
    palette = Image.open(palette_png(tmp_path / "p.png", np.array(IDS % 2)))
    palette.save(tmp_path / "q.png", transparency=0)
    table = lookup_table({0: "road", 1: "car"}, LabelSpace.of("s", ("road", "car")))
    for name in ("m.png", "q.png"):
        assert IdMasks(table).decode(Sample("m", tmp_path, tmp_path / name)).tolist() == (IDS % 2).tolist()


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


def flipped(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    return path


def test_every_flipped_bit_of_a_png_is_an_error_and_never_the_end_of_the_process(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    for name, pixels, read in (("i.png", noise, read_image), ("m.png", noise[..., 0], read_ids)):
        size = (Image.fromarray(pixels).save(tmp_path / name), (tmp_path / name).stat().st_size)[1]
        whole = (tmp_path / name).read_bytes()
        for at in range(9, size, size // 40):
            (tmp_path / name).write_bytes(whole)
            with pytest.raises(DataError, match=f"{name}: (image|mask): truncated or damaged"):
                read(flipped(tmp_path / name, at))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_pixels_are_the_same_with_and_without_the_quick_decoder(tmp_path, monkeypatch, mode, quick):
    pytest.importorskip("imagecodecs")
    calls = []
    monkeypatch.setattr(png, "_spng", count_calls(png._spng, calls) if quick else None)
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    stored = Image.fromarray(noise).convert(mode)
    stored.save(tmp_path / "a.png")
    assert torch.equal(
        read_image(tmp_path / "a.png"), torch.from_numpy(np.array(stored.convert("RGB"))).permute(2, 0, 1)
    )
    if mode in ("L", "P", "1"):
        assert torch.equal(read_ids(tmp_path / "a.png"), torch.from_numpy(np.array(stored, dtype=np.uint8)))
    assert bool(calls) == (quick and mode in ("RGB", "L"))


def written_png(path, width, height, bits, color, interlaced, rows):
    """A PNG with right checksums of whatever rows, filter bytes included."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("bits", "color", "interlaced", "whole"),
    [(8, 2, 0, 186), (8, 0, 0, 66), (1, 0, 0, 18), (16, 0, 0, 126), (8, 6, 0, 246), (8, 2, 1, 192)],
)
def test_a_stream_that_ends_early_is_refused_though_its_checksums_are_right(
    tmp_path, monkeypatch, quick, bits, color, interlaced, whole
):
    """Pillow leaves 0 where such a stream has nothing. 10 x 6 pixels; interlaced they are 12 rows."""
    if not quick:
        monkeypatch.setattr(png, "_spng", None)
    kind = (10, 6, bits, color, interlaced)
    assert not read_image(written_png(tmp_path / "whole.png", *kind, bytes(whole))).any()  # black is no damage
    for there in (whole // 2, whole - 1):
        with pytest.raises(DataError, match=r"a\.png: image: truncated or damaged"):
            read_image(written_png(tmp_path / "a.png", *kind, bytes(there)))


def count_calls(inner, calls):
    def outer(data):
        calls.append(len(data))
        return inner(data)

    return outer


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_a_hole_is_refused_by_name(tmp_path, progressive, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", progressive=progressive)
    whole = (tmp_path / "a.jpg").read_bytes()
    half = len(whole) // 2
    for cut in (whole[:half] + b"\xff\xd9", whole[:half] + whole[half + 900 :], whole[:half]):
        (tmp_path / "a.jpg").write_bytes(cut)
        with pytest.raises(DataError, match=r"a\.jpg: image: truncated or damaged"):
            read_image(tmp_path / "a.jpg")
    assert capfd.readouterr().err == ""


def test_every_rotation_mark_of_a_jpeg_is_followed(tmp_path):
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[:16, :16] = 255
    # Where the first row and column of the stored pixels lie in the picture as it is shown.
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for mark, corner in corners.items():
        exif = Image.Exif()
        exif[0x0112] = mark
        Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
        image = read_image(tmp_path / "a.jpg")
        assert image.shape[1:] == image_size(tmp_path / "a.jpg") == ((32, 48) if mark < 5 else (48, 32))
        bright = [place for place in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if int(image[0][place]) > 127]
        assert bright == [corner]


@pytest.mark.parametrize("alpha", ["LA", "RGBA"])
def test_16_bits_with_alpha_keep_their_numbers(tmp_path, alpha):
    bands = len(alpha)
    values = np.arange(24 * bands, dtype=np.uint16).reshape(*SIZE, bands) * 601
    path = raw_png(tmp_path / "m.png", values, 16)
    assert read_ids(path, channel=0).int().tolist() == values[..., 0].tolist()
    assert read_image(path)[0].tolist() == ((values[..., 0].astype(int) + 128) // 257).tolist()


def test_a_bomb_is_refused_from_its_header_and_the_limit_can_be_lifted(tmp_path, monkeypatch, recwarn):
    path = raw_png(tmp_path / "a.png", np.zeros((1, 8), dtype=np.uint8), 1)
    data = path.read_bytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    for read in (read_image, read_ids, image_size):
        with pytest.raises(DataError, match=r"60000 x 60000 pixels, more than 200,000,000; .*SEGREFINERY_MAX_PIXELS"):
            read(path)
    monkeypatch.setenv("SEGREFINERY_MAX_PIXELS", "20")
    with pytest.raises(DataError, match="has 6 x 4 pixels, more than 20"):
        read_image(picture(tmp_path / "b.png"))
    monkeypatch.setenv("SEGREFINERY_MAX_PIXELS", "4000000000")
    assert image_size(path) == (60_000, 60_000)
    assert not recwarn.list
    monkeypatch.setenv("SEGREFINERY_MAX_PIXELS", "many")
    with pytest.raises(SegRefineryError, match="SEGREFINERY_MAX_PIXELS is 'many'; set it to a number"):
        read_image(tmp_path / "b.png")


def test_a_pipe_and_a_device_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name in ("a.png", "b.png"):
        for read in (read_image, read_ids, image_size):
            with pytest.raises(DataError, match=rf"{name}: (image|mask): is a folder, a pipe or a device"):
                read(tmp_path / name)
