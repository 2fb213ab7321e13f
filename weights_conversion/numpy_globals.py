"""What a pickle may name of NumPy: numbers and plain arrays, as training loops leave them in checkpoints."""

import math
from typing import Any

import numpy as np

from weights_conversion.pickle_machine import Buildable, Global

# Fixed-size numbers only: no objects, strings, dates or records.
PLAIN_DTYPES = frozenset(f"{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)) - {"f1"} | {"b1"}
MAX_DIMENSIONS = 8
MAX_SIZE = 2**40


class PickledDtype(Buildable):
    """Stands for `numpy.dtype` while a pickle is decoded."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        if code not in PLAIN_DTYPES:
            raise ValueError(f"dtype {str(code)[:40]!r} is not a plain number")
        self.code = code
        self.order = "<"

    def build(self, state: Any) -> None:
        """Takes the byte order out of the state `(version, order, ...)`."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype with an unknown byte order")
        self.order = state[1] if state[1] in "<>" else "<"

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype."""
        return np.dtype(self.order + self.code)


class PickledArray(Buildable):
    """Stands for `numpy.ndarray` while a pickle is decoded; the content arrives by BUILD."""

    def __init__(self, subtype: Any, shape: Any, typecode: Any):
        if not isinstance(subtype, Global) or subtype.name != "numpy.ndarray":
            raise ValueError("only a plain numpy.ndarray may be rebuilt")
        self.array: np.ndarray = np.zeros(0, np.float32)

    def build(self, state: Any) -> None:
        """Takes `(version, shape, dtype, fortran order, bytes)`; the array views the bytes, read-only."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array state that is not understood")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, PickledDtype) or not isinstance(content, bytes | memoryview):
            raise ValueError("an array that does not hold plain numbers")
        if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
            raise ValueError("an array shape that is not understood")
        if not all(type(n) is int and 0 <= n < MAX_SIZE for n in shape):
            raise ValueError("an array with an impossible shape")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError(f"an array of {math.prod(shape):,} numbers in {len(content):,} bytes")
        self.array = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: Any, content: Any) -> int | float | bool:
    if not isinstance(dtype, PickledDtype) or not isinstance(content, bytes | memoryview):
        raise ValueError("a NumPy scalar that is not a plain number")
    if len(content) != dtype.dtype.itemsize:
        raise ValueError("a NumPy scalar of the wrong size")
    return np.frombuffer(content, dtype.dtype)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    # How pickle protocol 2 spells bytes.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("an encoding other than latin1")
    return text.encode("latin1")


NUMPY_GLOBALS = {
    entry.name: entry
    for entry in (
        Global("numpy.ndarray"),
        Global("numpy.dtype", PickledDtype),
        Global("numpy.core.multiarray._reconstruct", PickledArray),
        Global("numpy._core.multiarray._reconstruct", PickledArray),
        Global("numpy.core.multiarray.scalar", _scalar),
        Global("numpy._core.multiarray.scalar", _scalar),
        Global("_codecs.encode", _encode),
    )
}
