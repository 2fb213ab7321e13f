"""Writes `.pth` files that `torch.load(..., weights_only=True)` reads, without PyTorch."""

import math
import os
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from esr_lefuse_jax.atomic import atomic_path

# NumPy type to PyTorch's typed storage.
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
_ALIGNMENT = 64  # PyTorch maps storages into memory and wants them aligned
_FOLDER = "archive"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date: the same tensors always give the same bytes


def write_pth(
    path: str | os.PathLike[str], state: Mapping[str, np.ndarray], wrapped_in: str | None = None
) -> None:
    """Writes a state dict.

    Args:
        path: The file; it appears only when complete.
        state: Key to array, of the types in `STORAGES`.
        wrapped_in: When given, the file holds `{wrapped_in: state}`, as published checkpoints often do.

    Raises:
        TypeError: An array has a type PyTorch has no storage for.
        OutputError: The file cannot be written.
    """
    arrays = {key: np.asarray(value, order="C") for key, value in state.items()}
    pickle = encode_state(arrays, wrapped_in)
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        _add(file, archive, "data.pkl", pickle)
        _add(file, archive, "byteorder", b"little")
        for index, array in enumerate(arrays.values()):
            _add(
                file,
                archive,
                f"data/{index}",
                array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(),
            )
        _add(file, archive, "version", b"3\n")


def encode_state(arrays: Mapping[str, np.ndarray], wrapped_in: str | None = None) -> bytes:
    """Encodes the description of the tensors as `torch.save` does, in pickle protocol 2.

    Tensor number i lies in storage "i", whole and contiguous.
    """
    out = [b"\x80\x02"]
    if wrapped_in is not None:
        out += [b"}", _text(wrapped_in)]
    out += [_ORDERED_DICT, b"("]
    for index, (key, array) in enumerate(arrays.items()):
        if array.dtype.name not in STORAGES:
            raise TypeError(f"{key}: PyTorch has no storage for {array.dtype.name}")
        storage = (
            b"(" + _text("storage") + _global("torch", STORAGES[array.dtype.name])
            + _text(str(index)) + _text("cpu") + _integer(array.size) + b"tQ"
        )  # fmt: skip
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        out += [
            _text(key),
            _global("torch._utils", "_rebuild_tensor_v2"),
            b"("
            + storage
            + _integer(0)
            + _tuple(array.shape)
            + _tuple(strides)
            + b"\x89"
            + _ORDERED_DICT
            + b"t",
            b"R",
        ]
    out.append(b"u")
    if wrapped_in is not None:
        out.append(b"s")
    return b"".join([*out, b"."])


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values) -> bytes:
    return b"(" + b"".join(_integer(int(v)) for v in values) + b"t"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


_ORDERED_DICT = _global("collections", "OrderedDict") + b")R"


def _add(file: BinaryIO, archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}", date_time=_EPOCH)
    header_end = file.tell() + 30 + len(info.filename) + 4
    padding = -header_end % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding  # PyTorch pads in the same way
    archive.writestr(info, content)
