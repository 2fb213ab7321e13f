"""Compares what a file holds with what a network needs, and reports every difference in one error."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.torch_names import Leaf
from weights_conversion.zip_reader import quoted

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
Listings = Mapping[str, Iterable[str]]
INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8"})


class MismatchError(CheckpointError):
    """A file does not hold exactly the arrays of a network.

    Attributes:
        problems: Every key concerned, with details, by kind of problem (`Problems.KINDS`).
    """

    def __init__(self, source: str, network: str, problems: Mapping[str, list[str]], listings: Listings):
        self.problems = dict(problems)
        parts = []
        for kind, keys in self.problems.items():
            shown = summarise(keys, listings[kind]) if kind in listings else keys
            parts.append(f"{kind} ({len(keys)}): {', '.join(shown)}")
        super().__init__(
            f"{source}: does not fit the {network} network: {'; '.join(parts)}; "
            "use the file that was saved for this network"
        )


class Problems:
    """Collects differences by kind, in the order in which the kinds matter."""

    KINDS = ("missing", "not expected", "wrong shape", "wrong type", "not finite", "given twice")

    def __init__(self) -> None:
        self._keys: dict[str, list[str]] = {kind: [] for kind in self.KINDS}

    def add(self, kind: str, key: str, detail: str = "") -> None:
        """Notes one difference."""
        key = key if key.isprintable() and len(key) <= 100 else quoted(key)
        self._keys[kind].append(f"{key} {detail}" if detail else key)

    def raise_if_any(self, source: str, network: str, expected: Iterable[str], found: Iterable[str]) -> None:
        """Raises `MismatchError` with all of them; the listings are all keys of network and file."""
        problems = {kind: keys for kind, keys in self._keys.items() if keys}
        if problems:
            raise MismatchError(source, network, problems, {"missing": expected, "not expected": found})


def match(
    expected: Mapping[str, Leaf], found: Mapping[str, Any], torch: bool, problems: Problems
) -> dict[str, np.ndarray]:
    """Reads the arrays of a network.

    Args:
        expected: Key to leaf; keys are those of `found`.
        found: Key to anything with `shape`, `dtype` and either `numpy()` or the array protocol. Keys that are
            not expected are left to the caller.
        torch: Whether shapes are PyTorch's (else Flax's).
        problems: Takes every difference.

    Returns:
        Key to array in the shape it was found, float32 (int32 for counters). Keys with problems are absent.
    """
    arrays = {}
    for key, leaf in expected.items():
        if key not in found:
            problems.add("missing", key)
            continue
        tensor = found[key]
        if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
            problems.add("wrong type", key, f"is a {type(tensor).__name__} instead of a tensor")
            continue
        shape, dtype = tuple(tensor.shape), str(tensor.dtype)
        wanted = leaf.torch_shape if torch else leaf.shape
        if shape != wanted:
            problems.add("wrong shape", key, f"is {shape} instead of {wanted}")
        if dtype not in (INTEGERS if leaf.is_count else FLOATS):
            problems.add(
                "wrong type", key, f"is {dtype} instead of {'int64' if leaf.is_count else 'float32'}"
            )
        elif shape == wanted:
            array = _read(key, tensor, leaf, problems)
            if array is not None:
                arrays[key] = array
    return arrays


def _read(key: str, tensor: Any, leaf: Leaf, problems: Problems) -> np.ndarray | None:
    array = tensor.numpy() if hasattr(tensor, "numpy") else np.asarray(tensor)
    if leaf.is_count:
        if not 0 <= int(array) < 2**31:
            problems.add("wrong type", key, f"counts {int(array)}, which does not fit in int32")
            return None
        return array.astype(np.int32)
    with np.errstate(
        over="ignore"
    ):  # a float64 beyond float32's range becomes infinite and is reported as such
        array = array.astype(np.float32, order="C")
    bad = math.prod(array.shape) - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        problems.add("not finite", key, f"has {bad:,} NaN or Inf of {array.size:,}")
        return None
    return array


def summarise(keys: Iterable[str], listing: Iterable[str]) -> list[str]:
    """Shortens a list of keys: "prefix.* (n)" stands for all n keys of the listing that start with it.

    Args:
        keys: The keys to name, each one of `listing`.
        listing: All keys there are, their parts separated by "." or "/".
    """
    listed = set(keys)
    totals: dict[str, int] = {}
    hits: dict[str, int] = {}
    for key in listing:
        for prefix in _prefixes(key):
            totals[prefix] = totals.get(prefix, 0) + 1
            hits[prefix] = hits.get(prefix, 0) + (key in listed)
    lines: dict[str, None] = {}
    for key in keys:
        whole = next(
            (p for p in _prefixes(key) if totals.get(p) == hits.get(p) and totals.get(p, 0) > 1), None
        )
        lines[f"{whole}* ({totals[whole]})" if whole else key] = None
    return list(lines)


def _prefixes(key: str) -> list[str]:
    """All beginnings of a key that end in a separator, the shortest first."""
    return [key[: i + 1] for i, letter in enumerate(key) if letter in "./"]
