import io
import os
import resource
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax import images
from esr_lefuse_jax.errors import ConfigError, ImageError, OutputError
from esr_lefuse_jax.images import read_header, read_infrared, read_visible, write_image

RNG = np.random.default_rng(7)
PHOTO = np.kron(RNG.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 48x64, compressible


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("suffix", "exact"), [(".png", True), (".bmp", True), (".tif", True), (".jpg", False)]
)
def test_visible_round_trip(tmp_path, suffix, exact):
    path = tmp_path / f"a{suffix}"
    write_image(path, PHOTO)
    back = read_visible(path)
    assert back.dtype == np.float32
    assert back.shape == (48, 64, 3)
    wanted = PHOTO.astype(np.float32) / np.float32(255)
    if exact:
        np.testing.assert_array_equal(back, wanted)
    else:
        assert np.abs(back - wanted).mean() < 0.02


def test_gray_visible_gives_three_equal_channels(tmp_path):
    write_image(tmp_path / "g.png", PHOTO[..., 0])
    back = read_visible(tmp_path / "g.png")
    assert back.shape == (48, 64, 3)
    assert (back == back[..., :1]).all()


def test_colour_infrared_is_rounded_bt601():
    levels = RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    gray = read_infrared(encoded(Image.fromarray(levels), "PNG"))
    red, green, blue = (levels[..., i].astype(np.float64) for i in range(3))
    wanted = np.floor(0.299 * red + 0.587 * green + 0.114 * blue + 0.5 + 1e-9)
    np.testing.assert_array_equal(np.round(gray * 255), wanted)
    # Equal channels must come through unchanged: most thermal data sets store gray as colour.
    equal = np.repeat(levels[..., :1], 3, -1)
    np.testing.assert_array_equal(
        read_infrared(encoded(Image.fromarray(equal), "PNG")),
        levels[..., 0].astype(np.float32) / np.float32(255),
    )


def thermal_counts(low, high, shape=(60, 80)):
    return np.linspace(low, high, shape[0] * shape[1]).reshape(shape).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("low", "high"), [(0, 16383), (7000, 9000), (0, 65535), (60000, 65535), (0, 200)])
def test_more_than_8_bits_neither_saturate_nor_wrap(kind, low, high):
    counts = thermal_counts(low, high)
    counts[3, 4], counts[5, 6] = 0, 65535  # a dead and a stuck pixel
    scaled = read_infrared(encoded(Image.fromarray(counts), kind))
    order = np.argsort(counts, axis=None, kind="stable")
    sorted_scaled, sorted_counts = scaled.ravel()[order], counts.ravel()[order]
    assert (np.diff(sorted_scaled)[np.diff(sorted_counts) > 0] > 0).all(), "not strictly increasing"
    assert sorted_scaled[0] == 0
    assert sorted_scaled[-1] == 1
    assert scaled.std() > 0.25, "the two bad pixels took the whole scale"


def test_big_endian_tiff_and_14_bit_fixed_range():
    counts = thermal_counts(0, 16383)
    data = encoded(Image.fromarray(counts.astype(">u2")), "TIFF")
    np.testing.assert_allclose(read_infrared(data, ir_range=(0, 16383)), counts / 16383, atol=1e-6)
    np.testing.assert_allclose(read_infrared(data, ir_range="full"), counts / 65535, atol=1e-6)
    assert read_infrared(data, ir_range=(4000, 5000)).max() == 1
    np.testing.assert_allclose(read_visible(data)[..., 0], counts / 65535, atol=1e-6)


def test_float_infrared():
    celsius = np.linspace(-5, 37, 4800, dtype=np.float32).reshape(60, 80)
    celsius[0, :5] = np.nan
    celsius[1, 0] = np.inf
    data = encoded(Image.fromarray(celsius), "TIFF")
    scaled = read_infrared(data)
    assert np.isfinite(scaled).all()
    assert (scaled[0, :5] == 0).all(), "missing pixels must read as the coldest"
    assert scaled[1, 0] == 0
    assert scaled[-1, -1] == 1
    with pytest.raises(ImageError, match=r"outside \[0, 1\]"):
        read_infrared(data, ir_range="full")
    with pytest.raises(ImageError, match="NaN"):
        read_visible(data)
    celsius[:40] = np.nan
    with pytest.raises(ImageError, match="more than half"):
        read_infrared(encoded(Image.fromarray(celsius), "TIFF"))


def test_flat_infrared_is_black_not_noise():
    data = encoded(Image.fromarray(np.full((5, 6), 8000, np.uint16)), "PNG")
    assert (read_infrared(data) == 0).all()


def test_8_bit_infrared_stays_as_it_is():
    levels = np.arange(100, 148, dtype=np.uint8).reshape(6, 8)
    data = encoded(Image.fromarray(levels), "PNG")
    np.testing.assert_array_equal(read_infrared(data), levels.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(read_infrared(data, ir_range=(100, 147)), (levels - 100.0) / 47, atol=1e-6)


def test_16_bit_colour_infrared_is_refused_and_visible_reads(tmp_path):
    write_image(tmp_path / "c.png", PHOTO / 255, bits=16)
    with pytest.raises(ImageError, match="16 bits in a colour file"):
        read_infrared(tmp_path / "c.png")
    np.testing.assert_allclose(read_visible(tmp_path / "c.png"), PHOTO / 255, atol=1 / 255)


@pytest.mark.parametrize("colour", [False, True])
def test_16_bit_png_round_trip(tmp_path, colour):
    array = RNG.random((33, 21, 3) if colour else (33, 21)).astype(np.float32)
    write_image(tmp_path / "a.png", array, bits=16)
    if colour:  # Pillow reads colour by the high byte only
        np.testing.assert_allclose(read_visible(tmp_path / "a.png"), array, atol=1.1 / 255)
    else:
        np.testing.assert_allclose(
            read_infrared(tmp_path / "a.png", ir_range="full"), array, atol=0.6 / 65535
        )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_in_header_and_pixels(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    if kind == "JPEG":
        options.update(quality=100, subsampling=0)
    if kind == "WEBP":
        options["lossless"] = True
    data = encoded(Image.fromarray(PHOTO), kind, **options)
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation](PHOTO)
    header = read_header(data)
    assert (header.height, header.width) == turned.shape[:2]
    np.testing.assert_allclose(read_visible(data), turned / 255, atol=0.03 if kind == "JPEG" else 1e-6)
    assert read_infrared(data).shape == turned.shape[:2]


def test_alpha_palette_cmyk_and_one_bit():
    rgba = np.dstack(
        [PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)]
    )  # fully transparent: the colour still counts
    np.testing.assert_allclose(read_visible(encoded(Image.fromarray(rgba), "PNG")), PHOTO / 255, atol=1e-6)
    gray_alpha = Image.fromarray(PHOTO[..., 0]).convert("LA")
    np.testing.assert_allclose(read_infrared(encoded(gray_alpha, "PNG")), PHOTO[..., 0] / 255, atol=1e-6)
    palette = Image.fromarray(PHOTO).quantize(200)
    np.testing.assert_allclose(read_visible(encoded(palette, "PNG")), PHOTO / 255, atol=0.05)
    assert read_infrared(encoded(palette, "PNG")).shape == (48, 64)
    cmyk = encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(read_visible(cmyk) - PHOTO / 255).mean() < 0.02
    bilevel = Image.fromarray(PHOTO[..., 0] > 127)
    assert set(np.unique(read_visible(encoded(bilevel, "PNG")))) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {}), ("WEBP", {}), ("BMP", {})],
)
def test_every_truncation_is_found(kind, options):
    data = encoded(Image.fromarray(PHOTO), kind, **options)
    cuts = {*range(0, len(data), max(1, len(data) // 60)), *range(max(0, len(data) - 30), len(data))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow also warns about the tags it misses
        for cut in sorted(cuts):
            with pytest.raises(ImageError, match=r"^night\.img: "):
                read_visible(data[:cut], name="night.img")


def test_flipped_png_bits_are_found():
    data = bytearray(encoded(Image.fromarray(PHOTO), "PNG"))
    for position in RNG.integers(8, len(data), 50):
        broken = bytearray(data)
        broken[position] ^= 1 << int(RNG.integers(8))
        with pytest.raises(ImageError):
            read_visible(bytes(broken), name="x.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is no picture", "no image that can be read"),
        (b"<!DOCTYPE html><html></html>", "no image that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path, content, message):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    for read in (read_visible, read_infrared, read_header):
        with pytest.raises(ImageError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError, match="cannot be opened"):
            read_visible(path)


def png_header_bomb(width, height):
    def chunk(kind, payload):
        return (
            struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        )

    row = zlib.compress(b"\0" * 40_000_000, 9)  # about 40 KB
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def test_huge_image_is_refused_from_its_header(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header_bomb(20_000, 20_000))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for read in (read_visible, read_infrared, read_header):
        with pytest.raises(ImageError, match="400 megapixels, the limit is 200"):
            read(path)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert read_header(path, max_pixels=400_000_000).width == 20_000
    with pytest.raises(ImageError, match="limit"):
        read_visible(encoded(Image.fromarray(PHOTO), "PNG"), max_pixels=48 * 64 - 1)
    assert Image.MAX_IMAGE_PIXELS is not None, "Pillow's global limit must be as it was"


def test_parse_ir_range():
    assert images.parse_ir_range("auto") == "auto"
    assert images.parse_ir_range("full") == "full"
    assert images.parse_ir_range("7000,9000.5") == (7000.0, 9000.5)
    for text in ("", "12", "a,b", "9,7", "1,2,3", "0,nan", "0,inf"):
        with pytest.raises(ConfigError):
            images.parse_ir_range(text)


def test_rounding_and_truncation(tmp_path):
    levels = np.array([[0.0, 0.4, 0.6, 254.4, 254.6, 255.0]], np.float32) / 255
    write_image(tmp_path / "r.png", levels)
    write_image(tmp_path / "t.png", levels, rounding="truncate")
    assert np.asarray(Image.open(tmp_path / "r.png")).tolist() == [[0, 0, 1, 254, 255, 255]]
    assert np.asarray(Image.open(tmp_path / "t.png")).tolist() == [[0, 0, 0, 254, 254, 255]]
    write_image(tmp_path / "c.png", np.array([[-3.0, 7.0]]))  # outside the range: clipped, never wrapped
    assert np.asarray(Image.open(tmp_path / "c.png")).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 2)), np.zeros(5), np.zeros((0, 4)), np.full((4, 4), np.nan), np.zeros((4, 4), np.int32)],
)
def test_what_is_no_image_is_not_written(tmp_path, array):
    with pytest.raises(ImageError, match=r"a\.png"):
        write_image(tmp_path / "a.png", array)
    assert list(tmp_path.iterdir()) == []


def test_output_folder_missing_or_suffix_unknown(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        write_image(tmp_path / "no" / "a.png", PHOTO)
    with pytest.raises(OutputError, match="use one of"):
        write_image(tmp_path / "a.xyz", PHOTO)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_image(tmp_path / "file" / "a.png", PHOTO)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="no permission"):
        write_image(folder / "a.png", PHOTO)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_disk_full_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, PHOTO)
    old = path.read_bytes()
    real_open = io.open

    def full_disk(file, mode="r", *args, **kwargs):
        if "w" in mode and str(file).endswith(".part"):
            real_open(file, "wb").close()  # the name exists, the data does not fit
            return real_open("/dev/full", mode, *args, **kwargs)
        return real_open(file, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", full_disk)
    with pytest.raises(OutputError, match="disk is full"):
        write_image(path, 255 - PHOTO)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
