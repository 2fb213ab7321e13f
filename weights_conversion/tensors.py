"""Tensors as a `.pth` describes them: a view (offset, size, stride) of a storage in the archive.

Nothing here allocates until `StoredTensor.numpy` is called, and every number of the description was checked
against the real size of the storage before.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from weights_conversion.numpy_globals import MAX_DIMENSIONS, NUMPY_GLOBALS
from weights_conversion.pickle_machine import Global
from weights_conversion.zip_reader import StoredZip, quoted

# PyTorch's typed storages. bfloat16 has no NumPy type: its 16 bits are the upper half of a float32.
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
TORCH_DTYPES = (
    *STORAGE_DTYPES.values(),
    *("float", "double", "half", "long", "int", "short"),
)
ITEM_SIZES = {"bfloat16": 2} | {n: np.dtype(n).itemsize for n in STORAGE_DTYPES.values() if n != "bfloat16"}


class Storages:
    """The storages of one archive, each read at most once in a row.

    Args:
        archive: The archive.
        folder: Name of its top folder; the storages are `folder/data/KEY`.
    """

    def __init__(self, archive: StoredZip, folder: str):
        self._archive = archive
        self._folder = folder
        self._dtypes: dict[str, str] = {}
        self._last: tuple[str, bytes] = ("", b"")

    def persistent_load(self, pid: Any) -> "Storage":
        """Turns a persistent id `("storage", type, key, location, number of elements)` into a `Storage`.

        Raises:
            ValueError: It has another form, there is no such entry, or the entry has another size.
        """
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise ValueError("a persistent id that is not a storage")
        _, kind, key, _, numel = pid
        if not isinstance(kind, Global) or kind.name not in _STORAGE_NAMES:
            raise ValueError("a storage of unknown type")
        dtype = _STORAGE_NAMES[kind.name]
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise ValueError("a storage with an impossible key or length")
        name = f"{self._folder}/data/{key}"
        entry = self._archive.entries.get(name)
        if entry is None:
            raise ValueError(f"storage {quoted(name)} is not in the archive")
        if entry.size != numel * ITEM_SIZES[dtype]:
            raise ValueError(f"storage {quoted(name)} has {entry.size:,} bytes but claims {numel:,} {dtype}")
        if self._dtypes.setdefault(name, dtype) != dtype:
            raise ValueError(f"storage {quoted(name)} is used as {dtype} and as {self._dtypes[name]}")
        return Storage(self, name, dtype, numel)

    def read(self, name: str) -> bytes:
        """Returns the bytes of storage `name`, checksum compared."""
        if self._last[0] != name:
            self._last = (name, self._archive.read(name))
        return self._last[1]


@dataclass(frozen=True)
class Storage:
    """A run of `numel` numbers in the archive entry `name`."""

    owner: Storages
    name: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in the file.

    Attributes:
        storage: Where its numbers are.
        offset: Index of its first number in the storage.
        shape: Its size.
        stride: Steps in numbers, one for each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self):
        for what, numbers in (("size", self.shape), ("stride", self.stride)):
            if type(numbers) is not tuple or not all(type(n) is int and n >= 0 for n in numbers):
                raise ValueError(f"a tensor whose {what} is not a tuple of non-negative integers")
        if type(self.offset) is not int or self.offset < 0:
            raise ValueError("a tensor with an impossible offset")
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(self.shape)} sizes and {len(self.stride)} strides")
        if max((0, *self.shape)) > 2**40:
            raise ValueError("a tensor with an impossible size")
        numel = math.prod(self.shape)
        # A stride of 0 lets a few bytes pose as terabytes, so a tensor may not have more numbers than its
        # storage.
        if numel > self.storage.numel:
            raise ValueError(f"a tensor of {_short(numel)} numbers in a storage of {self.storage.numel:,}")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if numel and last >= self.storage.numel:
            raise ValueError("a tensor that reaches beyond its storage")

    @property
    def dtype(self) -> str:
        """Name of its type, as PyTorch spells it: "float32", "bfloat16", "int64", ..."""
        return self.storage.dtype

    def numpy(self) -> np.ndarray:
        """Reads it as a new C-contiguous array; bfloat16 comes as float32, which holds it exactly.

        Raises:
            CheckpointError: The content of the storage is damaged.
        """
        content = self.storage.owner.read(self.storage.name)
        stored = np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")
        flat = np.frombuffer(content, stored)
        if not math.prod(self.shape):
            view = flat[:0].reshape(self.shape)
        else:
            strides = [step * stored.itemsize for step in self.stride]
            view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        if self.dtype == "bfloat16":
            return (view.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.array(view, view.dtype.newbyteorder("="), order="C")


def _short(number: int) -> str:
    return f"{number:,}" if number < 2**63 else "more than 2^63"


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor:
    # rest: requires_grad, backward hooks, metadata. They matter to autograd only.
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if len(rest) > 3:
        raise ValueError("a tensor with unknown parts")
    return StoredTensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, *rest: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor) or len(rest) > 3:
        raise ValueError("a parameter without a tensor")
    return data


def _ordered_dict(*pairs: Any) -> OrderedDict[Any, Any]:
    if pairs:
        raise ValueError("an OrderedDict with arguments")
    return OrderedDict()


def _size(numbers: Any) -> tuple[Any, ...]:
    if type(numbers) is not tuple:
        raise ValueError("a torch.Size that is not a tuple")
    return numbers


def _device(*parts: Any) -> str:
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("a device without a name")
    return ":".join(map(str, parts))


_STORAGE_NAMES = {f"torch.{kind}": dtype for kind, dtype in STORAGE_DTYPES.items()}

TORCH_GLOBALS = NUMPY_GLOBALS | {
    entry.name: entry
    for entry in (
        Global("collections.OrderedDict", _ordered_dict),
        Global("torch._utils._rebuild_tensor", _rebuild_tensor),
        Global("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
        Global("torch._utils._rebuild_parameter", _rebuild_parameter),
        Global("torch._utils._rebuild_parameter_with_state", _rebuild_parameter),
        Global("torch.Size", _size),
        Global("torch.device", _device),
        *(Global(f"torch.{kind}") for kind in STORAGE_DTYPES),
        *(Global(f"torch.{dtype}") for dtype in TORCH_DTYPES),
    )
}
