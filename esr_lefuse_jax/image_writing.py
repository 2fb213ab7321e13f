"""Writing images: [0, 1] arrays to PNG, JPEG, TIFF, BMP or WebP, atomically."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import ImageError, OutputError

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}
Rounding = Literal["nearest", "truncate"]


def quantise(array: np.ndarray, *, rounding: Rounding = "nearest", bits: int = 8) -> np.ndarray:
    """Turns [0, 1] values of any shape into uint8 (or uint16 for `bits=16`), clipping what lies outside.

    Args:
        array: floats; integer arrays of the wanted type pass as they are.
        rounding: "nearest", or "truncate" as the original ESR-LEFuse script writes its files.
        bits: 8 or 16.

    Raises:
        ImageError: NaN or infinite values, or an integer type that is not the wanted one.
    """
    dtype = np.uint16 if bits == 16 else np.uint8
    array = np.asarray(array)
    if array.dtype == dtype:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"an image of type {array.dtype}: give floats in [0, 1] or {dtype.__name__}")
    if not np.isfinite(array).all():
        raise ImageError("an image with NaN or infinite values cannot be written")
    # float32 holds every 16-bit level; half precision would not even hold 8 bits after scaling.
    highest = 2**bits - 1
    levels = np.multiply(array, highest, dtype=np.float32)
    if rounding == "nearest":
        levels += 0.5
    return np.clip(levels, 0, highest).astype(dtype)


def encode_image(
    array: np.ndarray, suffix: str, *, rounding: Rounding = "nearest", bits: int = 8, quality: int = 95
) -> bytes:
    """Encodes an image for a file of the given suffix.

    Args:
        array: (H, W), (H, W, 1) or (H, W, 3); floats in [0, 1] (clipped), or uint8 / uint16 as it is.
        suffix: ".png", ".jpg", ".tif", ".bmp" or ".webp".
        rounding: see `quantise`.
        bits: 8, or 16 for PNG.
        quality: of JPEG and WebP.

    Raises:
        ImageError: shape or values are no image, or the suffix or bit depth is not supported.
    """
    kind = _FORMATS.get(suffix.lower())
    if kind is None:
        raise ImageError(f"cannot write {suffix!r} files: use one of {', '.join(_FORMATS)}")
    if bits not in (8, 16) or (bits == 16 and kind != "PNG"):
        raise ImageError(f"cannot write {bits} bits to {suffix} files: 16 bits need .png")
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        raise ImageError(f"shape {array.shape} is no image: expected (H, W), (H, W, 1) or (H, W, 3)")
    levels = np.ascontiguousarray(quantise(array, rounding=rounding, bits=bits))
    if bits == 16:
        return _png16(levels)
    # Level 1: a fourth of the time of the default for a 5120x4096 result, for a file some 10 % larger.
    options = {
        "PNG": {"compress_level": 1},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_lzw"},
    }.get(kind, {})
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def _png16(levels: np.ndarray) -> bytes:
    """16-bit PNG, gray or RGB; written here because Pillow cannot write 16-bit colour."""
    height, width = levels.shape[:2]
    rows = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    # Filter 2 (difference to the row above): smooth pictures give small bytes, and numpy does it at once.
    filtered = rows.copy()
    filtered[1:] -= rows[:-1]
    data = np.concatenate([np.full((height, 1), 2, np.uint8), filtered], axis=1).tobytes()

    def chunk(kind: bytes, payload: bytes) -> bytes:
        body = kind + payload
        return struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))

    colour_type = 2 if levels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, payload) for kind, payload in parts)


def write_image(
    path: str | os.PathLike,
    array: np.ndarray,
    *,
    rounding: Rounding = "nearest",
    bits: int = 8,
    quality: int = 95,
) -> None:
    """Writes an image so that the final name only ever holds a complete file.

    Arguments as for `encode_image`; the suffix of `path` chooses the format. The folder must exist.

    Raises:
        ImageError: the array is no image (nothing is written).
        OutputError: unknown suffix, folder missing or read-only, disk full.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise OutputError(f"{path}: cannot write {path.suffix!r} files: use one of {', '.join(_FORMATS)}")
    try:
        data = encode_image(array, path.suffix, rounding=rounding, bits=bits, quality=quality)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    write_bytes(path, data)
