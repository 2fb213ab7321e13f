"""Decoded pictures kept in memory up to a budget: small sets are decoded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np


def _size(value: Any) -> int:
    parts = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))


class ByteCache:
    """Keeps the most recently used values whose arrays take at most `budget` bytes together.

    Threads may share it. A copy in another process (pickling) starts empty.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._used = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> int:
        return self.budget

    def __setstate__(self, budget: int) -> None:
        ByteCache.__init__(self, budget)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key`, made on a miss; a value is an array, or a tuple or dict that holds arrays."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        size = _size(value)
        with self._lock:
            if key not in self._values and size <= self.budget:
                self._values[key] = value
                self._used += size
                while self._used > self.budget:
                    _, old = self._values.popitem(last=False)
                    self._used -= _size(old)
        return value
