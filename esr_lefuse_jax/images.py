"""Reading images: float32 arrays in [0, 1] from files as people have them.

Every failure is an `ImageError` of one line that names the file. Sizes are judged from the header, before
anything is decoded. EXIF orientation is applied. Only formats that photographs and thermal frames come in are
tried: PNG, JPEG, TIFF, BMP, WebP and PPM/PGM. Of several pages or frames the first is read.

What becomes of the less usual kinds:

* alpha is dropped: the colour as stored counts; palettes are expanded, CMYK and YCbCr converted to RGB;
* 16 bits per channel in a colour file are read by their high byte; for infrared they are refused, because
  thermal detail lives in the low byte;
* non-finite pixels of a float TIFF are refused for the visible image and read as the coldest pixel of an
  infrared one (refused when they are more than half of it);
* infrared with more than 8 bits is scaled as `read_infrared` says.
"""

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from esr_lefuse_jax.errors import ConfigError, ImageError
from esr_lefuse_jax.image_writing import encode_image, write_image

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "ImageHeader",
    "IrRange",
    "encode_image",
    "parse_ir_range",
    "read_header",
    "read_infrared",
    "read_visible",
    "write_image",
]

DEFAULT_MAX_PIXELS = 200_000_000
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"})

Source = str | os.PathLike | bytes
IrRange = Literal["auto", "full"] | tuple[float, float]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")
_ORIENTATION = 0x0112
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Pillow's own limit is one global number below ours; it is lifted only while a header is read.
_PILLOW_LIMIT_LOCK = threading.Lock()


class ImageHeader(NamedTuple):
    """What the header says.

    Attributes:
        height: rows after EXIF orientation.
        width: columns after EXIF orientation.
        format: Pillow's name of the format.
        channels: of the file (a palette counts as one).
        bits: per channel.
        orientation: of EXIF, 1 when upright.
    """

    height: int
    width: int
    format: str
    channels: int
    bits: int
    orientation: int = 1


def read_header(source: Source, *, name: str | None = None, max_pixels: int | None = None) -> ImageHeader:
    """Reads size and kind without decoding the pixels.

    Args:
        source: a path, or the bytes of a file.
        name: what errors call the image when `source` is bytes.
        max_pixels: refuse larger images; `DEFAULT_MAX_PIXELS` when None.

    Raises:
        ImageError: no readable image, or too large.
    """
    stream, name = _open_stream(source, name)
    with stream:
        image = _open_image(stream, name, max_pixels)
        width, height = image.size
        orientation = _orientation(image)
        # Pillow's TIFF reader already gives the turned size; the others give the stored one.
        if image.format != "TIFF" and orientation in _TURNED:
            width, height = height, width
        channels = len(image.getbands())
        return ImageHeader(height, width, image.format or "", channels, _bits(image), orientation)


def read_visible(source: Source, *, name: str | None = None, max_pixels: int | None = None) -> np.ndarray:
    """Reads a visible image as RGB, float32 (H, W, 3) in [0, 1]; gray files give three equal channels.

    8 bits are divided by 255, 16-bit gray by 65535; a float TIFF must lie in [0, 1].

    Raises:
        ImageError: unreadable, truncated, too large, or values that cannot be understood.
    """
    image, _, name = _decode(source, name, max_pixels)
    if image.mode == "RGB":
        return np.asarray(image).astype(np.float32) / np.float32(255)
    if image.mode == "L":
        gray = np.asarray(image).astype(np.float32) / np.float32(255)
    elif image.mode == "F":
        gray = np.asarray(image).astype(np.float32)
        if not np.isfinite(gray).all():
            raise ImageError(f"{name}: holds NaN or infinite pixels: fill them before use")
        if gray.min() < 0 or gray.max() > 1:
            raise ImageError(f"{name}: float values outside [0, 1]: scale the visible image to [0, 1]")
    else:
        gray = _full_scale(np.asarray(image).astype(np.float32), name)
    return np.repeat(gray[..., None], 3, axis=-1)


def read_infrared(
    source: Source, *, ir_range: IrRange = "auto", name: str | None = None, max_pixels: int | None = None
) -> np.ndarray:
    """Reads an infrared image as float32 (H, W) in [0, 1].

    8-bit files are divided by 255; colour ones are first turned to gray by BT.601, rounded to integers as the
    published model does. More than 8 bits, and float files, hold raw counts or temperatures, and `ir_range`
    says which of them are black and white:

    * `"auto"`: the picture's own range. The 0.1 and 99.9 percentiles go to .02 and .98, the tails beyond them
      down to the minimum and up to the maximum share the rest. Strictly increasing: nothing saturates, and a
      dead pixel costs 2 % of the scale instead of all of it. A flat picture becomes 0. Each picture has its
      own scale: give numbers for video.
    * `"full"`: 0 to 65535 for integers, [0, 1] for floats (anything else is refused).
    * `(low, high)`: these counts to 0 and 1, linearly, clipped beyond; the only choice that can clip.

    Args:
        source: a path, or the bytes of a file.
        ir_range: see above; numbers also apply to 8-bit files.
        name: what errors call the image when `source` is bytes.
        max_pixels: refuse larger images; `DEFAULT_MAX_PIXELS` when None.

    Raises:
        ImageError: unreadable, truncated, too large, or values that cannot be understood.
    """
    image, bits, name = _decode(source, name, max_pixels)
    if image.mode in ("L", "RGB"):
        if bits > 8:
            raise ImageError(f"{name}: infrared with {bits} bits in a colour file: save it as one channel")
        gray = _gray(image).astype(np.float32)
        return _scaled(gray, ir_range) if isinstance(ir_range, tuple) else gray / np.float32(255)
    counts = _finite(np.asarray(image).astype(np.float32), name)
    if ir_range != "full":
        return _scaled(counts, ir_range)
    if image.mode != "F":
        return _full_scale(counts, name)
    if counts.min() < 0 or counts.max() > 1:
        raise ImageError(f"{name}: float values outside [0, 1]: use the range auto or two numbers")
    return counts


def parse_ir_range(text: str) -> IrRange:
    """Turns the flag value `auto`, `full` or `LOW,HIGH` into an `IrRange`; raises ConfigError."""
    if text in ("auto", "full"):
        return text  # type: ignore[return-value]
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"infrared range {text!r}: give auto, full or LOW,HIGH such as 7000,9000") from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(f"infrared range {text!r}: the first number must be below the second")
    return low, high


def _open_stream(source: Source, name: str | None) -> tuple[BinaryIO, str]:
    if isinstance(source, bytes):
        return io.BytesIO(source), name or "image"
    name = name or os.fspath(source)
    try:
        return Path(source).open("rb"), name
    except OSError as error:
        raise ImageError(f"{name}: cannot be opened: {error.strerror or error}") from error


@contextlib.contextmanager
def _decoder_errors(name: str, stream: BinaryIO) -> Iterator[None]:
    """Turns whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        stream.seek(0)
        raise ImageError(f"{name}: {_what_it_is(stream.read(64))}") from None
    except Exception as error:  # struct.error, SyntaxError, KeyError, ...: a dozen types on damaged data
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(f"{name}: damaged or truncated image ({reason})") from error


def _open_image(stream: BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    with _decoder_errors(name, stream):
        with _PILLOW_LIMIT_LOCK:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(stream, formats=_FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        _check_size(image, name, DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels)
        return image


def _decode(source: Source, name: str | None, max_pixels: int | None) -> tuple[Image.Image, int, str]:
    """Returns the decoded and turned image, its bits per channel in the file, and its name."""
    stream, name = _open_stream(source, name)
    with stream:
        image = _open_image(stream, name, max_pixels)
        bits = _bits(image)
        with _decoder_errors(name, stream):
            image.load()
            if image.format == "PNG":
                _check_png_chunks(stream, name)
            if image.format != "TIFF" and _orientation(image) != 1:
                image = ImageOps.exif_transpose(image)
            if image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
                image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
        return image, bits, name


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} megapixels, "
            f"the limit is {max_pixels / 1e6:.0f}: raise the pixel limit if the file is right"
        )


def _what_it_is(start: bytes) -> str:
    if not start:
        return "is empty: copy the file again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image: run `git lfs pull`"
    if start.startswith((b"\x89PNG", b"\xff\xd8", b"II*\0", b"MM\0*", b"BM", b"RIFF")):
        return "damaged or truncated image (its header cannot be read)"
    return "is no image that can be read (PNG, JPEG, TIFF, BMP, WebP, PGM)"


def _bits(image: Image.Image) -> int:
    if image.mode.startswith("I;16"):
        return 16
    if image.mode in ("I", "F"):
        return 32
    # Pillow opens 16-bit colour under an 8-bit mode; only the decoder's raw mode tells.
    raw_modes = (args if isinstance(args, str) else str(args) for _, _, _, args in getattr(image, "tile", []))
    return 16 if any(";16" in raw_mode for raw_mode in raw_modes) else 8


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels: as if there were none
        return 1


def _check_png_chunks(stream: BinaryIO, name: str) -> None:
    """Pillow ignores the checksums of pixel chunks and a missing end: a cut or flipped file could pass."""
    stream.seek(len(_PNG_SIGNATURE))
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise ImageError(f"{name}: truncated image (the PNG has no end)")
        length, kind = struct.unpack(">I4s", head)
        data = stream.read(length)
        checksum = stream.read(4)
        if len(data) < length or len(checksum) < 4:
            raise ImageError(f"{name}: truncated image (the PNG ends inside {kind.decode('latin-1')})")
        if zlib.crc32(data, zlib.crc32(kind)) != struct.unpack(">I", checksum)[0]:
            raise ImageError(f"{name}: damaged image (wrong checksum in {kind.decode('latin-1')})")
        if kind == b"IEND":
            return


def _gray(image: Image.Image) -> np.ndarray:
    """BT.601 gray, rounded half up to uint8; exact, because the weights are thousandths."""
    if image.mode == "L":
        return np.asarray(image)
    rgb = np.asarray(image).astype(np.uint32)
    return ((299 * rgb[..., 0] + 587 * rgb[..., 1] + 114 * rgb[..., 2] + 500) // 1000).astype(np.uint8)


def _full_scale(counts: np.ndarray, name: str) -> np.ndarray:
    if counts.min() < 0 or counts.max() > 65535:
        raise ImageError(f"{name}: integers outside 0..65535: give the infrared range, or save as 16 bits")
    return counts / np.float32(65535)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    finite = np.isfinite(values)
    if finite.all():
        return values
    if finite.mean() < 0.5:
        raise ImageError(f"{name}: more than half of the pixels are NaN or infinite")
    return np.where(finite, values, values[finite].min())


def _scaled(counts: np.ndarray, ir_range: IrRange) -> np.ndarray:
    counts = counts.astype(np.float64)  # temperatures in float32 may span less than one part in 1e5
    if isinstance(ir_range, tuple):
        low, high = ir_range
        return np.clip((counts - low) / (high - low), 0, 1).astype(np.float32)
    lowest, highest = counts.min(), counts.max()
    if lowest == highest:
        return np.zeros(counts.shape, np.float32)
    low, high = np.percentile(counts, (0.1, 99.9))
    knots = [(lowest, 0.0)]
    if lowest < low < high:
        knots.append((low, 0.02))
    if max(low, lowest) < high < highest:
        knots.append((high, 0.98))
    knots.append((highest, 1.0))
    return np.interp(counts, [x for x, _ in knots], [y for _, y in knots]).astype(np.float32)
