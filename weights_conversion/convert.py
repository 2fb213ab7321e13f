"""State dicts of PyTorch to the variables of the Flax networks and back.

Variables are kept flat here, "params/emb1/kernel" to array; `flatten` and `unflatten` change between that and
the nested dicts that Flax takes.
"""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.aliases import canonical_key, unwrap, why_ignored
from weights_conversion.matching import Problems, match
from weights_conversion.torch_names import NETWORKS, RRDB_BLOCKS, SR_SCALES, by_path, by_torch_key, leaves
from weights_conversion.zip_reader import quoted

# The dict under which the original code expects each network's state dict; None for a bare one.
PUBLISHED_WRAPPER = {"fusion": "model", "sr": None, "rrdb": "params", "vgg16": None}
# A file is taken for the first network of which it has at least this share of the arrays.
_ENOUGH = 0.5
# Below this share it is not that network at all: stray names are shared ("features.0.weight").
_SOME = 0.1


@dataclass(frozen=True)
class Converted:
    """The variables of one network.

    Attributes:
        network: "fusion", "sr", "rrdb" or "vgg16".
        arrays: Flax path to array: float32, counters int32. Exactly the network's leaves, all finite.
        options: What the arrays say of the architecture: {"scale": 4} or {"num_blocks": 23}.
        ignored: Key of the file to the reason why it was not used.
        dtypes: Type in the file to the number of arrays that had it.
    """

    network: str
    arrays: dict[str, np.ndarray]
    options: dict[str, int]
    ignored: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters; running statistics are not counted."""
        return sum(array.size for path, array in self.arrays.items() if path.startswith("params/"))


def from_checkpoint(value: Any, network: str | None = None, source: str = "checkpoint") -> Converted:
    """Converts what a `.pth` holds: a bare state dict, or one inside `{"model": ...}` and the like.

    Args:
        value: The content of the file, as `pth_reader.read_pth` returns it.
        network: The network it must be; None recognises it by its keys.
        source: Name of the file, for messages.

    Raises:
        CheckpointError: There is no state dict, or as `from_state_dict`.
    """
    state, beside = unwrap(value, source)
    converted = from_state_dict(state, network, source)
    converted.ignored.update(beside)
    return converted


def from_state_dict(
    state: Mapping[str, Any], network: str | None = None, source: str = "state dict"
) -> Converted:
    """Converts a state dict.

    Args:
        state: Key to tensor (`StoredTensor`, NumPy array or alike), under any of the published names.
        network: The network it must be; None recognises it by its keys.
        source: Name of the file, for messages.

    Returns:
        The variables. Every key was used or stands in `ignored`.

    Raises:
        MismatchError: Missing, unexpected, misshapen, mistyped or non-finite arrays, all in one error.
        CheckpointError: The network is not recognised.
    """
    renamed = {name: [canonical_key(name, key) for key in state] for name in NETWORKS}
    shares = {name: _share(by_torch_key(name), renamed[name]) for name in NETWORKS}
    network = _choose(network, shares, list(state), source)
    found: dict[str, Any] = {}
    original: dict[str, str] = {}
    ignored: dict[str, str] = {}
    problems = Problems()
    twice = []
    for (key, tensor), name in zip(state.items(), renamed[network], strict=True):
        if name in found:
            twice.append((key, name, tensor))
        else:
            found[name], original[name] = tensor, key
    options = _options(network, found, torch=True)
    expected = by_torch_key(network, **options)
    for name in (name for name in found if name not in expected):
        reason = why_ignored(network, name)
        if reason is None and not hasattr(found[name], "shape"):
            reason = "not a tensor"
        if reason is None:
            problems.add("not expected", original[name])
        else:
            ignored[original[name]] = reason
    arrays = match(expected, found, True, problems)
    for key, name, tensor in twice:
        if name not in expected:
            ignored[key] = why_ignored(network, name) or f"second copy of {original[name]}"
        elif name in arrays and _equal(arrays[name], tensor):
            ignored[key] = f"second copy of {original[name]}"
        else:
            problems.add("given twice", key, f"differs from {original[name]}")
    problems.raise_if_any(source, network, expected, state)
    flax = {
        leaf.path: np.asarray(leaf.layout.to_flax(arrays[key]), order="C") for key, leaf in expected.items()
    }
    return Converted(network, flax, options, ignored, _count_dtypes(found[name] for name in expected))


def from_leaves(
    arrays: Mapping[str, Any], network: str | None = None, source: str = "variables"
) -> Converted:
    """Checks flat Flax variables, as they are stored in safetensors files and Orbax folders.

    Args:
        arrays: Flax path to array.
        network: The network it must be; None recognises it by its paths.
        source: Name of the file, for messages.

    Raises:
        CheckpointError: As `from_state_dict`.
    """
    shares = {name: _share(by_path(name), arrays) for name in NETWORKS}
    network = _choose(network, shares, list(arrays), source)
    options = _options(network, arrays, torch=False)
    expected = by_path(network, **options)
    problems = Problems()
    for path in arrays:
        if path not in expected:
            problems.add("not expected", path)
    matched = match(expected, arrays, False, problems)
    problems.raise_if_any(source, network, expected, arrays)
    return Converted(network, matched, options, {}, _count_dtypes(arrays[path] for path in expected))


def to_state_dict(
    network: str, arrays: Mapping[str, Any], source: str = "variables"
) -> dict[str, np.ndarray]:
    """Converts flat Flax variables to the original state dict, keys in its order, counters int64.

    Raises:
        MismatchError: `arrays` are not exactly the network's leaves.
    """
    checked = from_leaves(arrays, network, source)
    state = {}
    for leaf in leaves(network, **checked.options):
        array = np.asarray(leaf.layout.to_torch(checked.arrays[leaf.path]), order="C")
        state[leaf.torch_key] = array.astype(np.int64) if leaf.is_count else array
    return state


def flatten(variables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to {"params/emb1/kernel": leaf}."""
    flat: dict[str, Any] = {}
    for key, value in variables.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"params/emb1/kernel": leaf} to nested dicts."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return nested


def _share(expected: Mapping[str, Any], found: Iterable[str]) -> float:
    return len(expected.keys() & set(found)) / len(expected)


def _choose(wanted: str | None, shares: Mapping[str, float], listing: list[str], source: str) -> str:
    """Chooses the network by the share of its arrays that are present, or refuses the one that is wanted.

    The order of `NETWORKS` decides between two: a checkpoint of the fusion network also holds VGG16.
    """
    if wanted is not None and wanted not in NETWORKS:
        raise CheckpointError(f"{source}: there is no network {wanted!r}; one of: {', '.join(NETWORKS)}")
    complete = next((name for name in NETWORKS if shares[name] >= _ENOUGH), None)
    likely = complete or max(NETWORKS, key=lambda name: shares[name])
    if shares[wanted or likely] >= _SOME:
        return wanted or likely
    if wanted is not None and complete:
        raise CheckpointError(
            f"{source}: holds the {complete} network, not the {wanted} network; use another file"
        )
    names = ", ".join(quoted(key, 40) for key in listing[:4])
    what = f"the {wanted} network" if wanted else f"a network of this package ({', '.join(NETWORKS)})"
    raise CheckpointError(
        f"{source}: not the weights of {what}: it has {len(listing)} arrays, such as {names}"
    )


def _options(network: str, found: Mapping[str, Any], torch: bool) -> dict[str, int]:
    if network == "sr":
        bias = found.get("upsample.0.bias" if torch else "params/upsample_0/bias")
        shape = tuple(getattr(bias, "shape", ()))
        return {"scale": next((scale for scale in SR_SCALES if shape == (64 * scale**2,)), 4)}
    if network == "rrdb":
        blocks = RRDB_BLOCKS[-1]
        deeper = f"body.{blocks}." if torch else f"params/body_{blocks}/"
        return {"num_blocks": RRDB_BLOCKS[0] if any(key.startswith(deeper) for key in found) else blocks}
    return {}


def _equal(array: np.ndarray, tensor: Any) -> bool:
    if tuple(getattr(tensor, "shape", ())) != array.shape:
        return False
    other = tensor.numpy() if hasattr(tensor, "numpy") else np.asarray(tensor)
    return np.array_equal(array, other.astype(array.dtype))


def _count_dtypes(tensors: Iterable[Any]) -> dict[str, int]:
    return dict(collections.Counter(str(tensor.dtype) for tensor in tensors))
