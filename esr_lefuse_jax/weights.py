"""Weights on disk: PyTorch `.pth`, safetensors and Orbax folders, read and written alike.

In memory the weights of a network are Flax variables, `{"params": ..., "batch_stats": ...}`, as NumPy
float32. Every file is compared with the table of its network, so what comes back is complete, finite and of
the right shapes. Files written here carry a SHA-256 of their content, which loading compares: neither
safetensors nor Orbax notices a flipped bit by itself.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import CheckpointError
from esr_lefuse_jax.weights_shipped import resolve
from weights_conversion.convert import (
    PUBLISHED_WRAPPER,
    Converted,
    flatten,
    from_checkpoint,
    from_leaves,
    from_state_dict,
    to_state_dict,
    unflatten,
)
from weights_conversion.pth_reader import describe_wrong_format, is_safetensors, read_pth
from weights_conversion.pth_writer import write_pth
from weights_conversion.torch_names import NETWORKS
from weights_conversion.zip_reader import LOCAL_MAGIC, open_checkpoint

FORMAT = "esr_lefuse_jax"
ORBAX_MARK = "_METADATA"  # the file that makes a folder an Orbax tree
STORAGE_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_SAFETENSORS_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
}


@dataclass(frozen=True)
class LoadedWeights:
    """The weights of one network.

    Attributes:
        network: "fusion", "sr", "rrdb" or "vgg16". variables: Nested dicts `{"params": ..., "batch_stats":
        ...}` of float32 (counters int32) NumPy arrays. metadata: Text by name: "network", "sha256", "scale"
        (sr) or "num_blocks" (rrdb), and what was saved along. path: Where they came from. ignored: Key of the
        file to the reason why it was not used. dtypes: Type in the file to the number of arrays that had it.
    """

    network: str
    variables: dict[str, Any]
    metadata: dict[str, str]
    path: Path
    ignored: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(leaf.size for leaf in flatten(self.variables["params"]).values())

    @property
    def terms(self) -> str:
        """What the weights may be used for, as noted in the file, on one line; "" when nothing is noted."""
        terms = self.metadata.get("terms", "")
        return terms if terms.isprintable() else repr(terms)


def load_weights(path: str | os.PathLike[str], network: str | None = None) -> LoadedWeights:
    """Reads weights of any supported kind; the content decides, not the name.

    Args:
        path: A `.pth` of PyTorch 1.6 or newer, a safetensors file (of this package or with PyTorch's keys),
            an Orbax folder, or the folder of a training run or of one of its checkpoints; or the name of a set
            that comes with the package (`weights_shipped.SETS`).
        network: The network it must be: "fusion", "sr", "rrdb" or "vgg16"; None recognises it.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe, or does not hold exactly that network.
    """
    path = resolve(path, network)
    metadata: dict[str, str] = {}
    if path.is_dir():
        path = _find_in_folder(path, network)
    if path.is_dir():
        from esr_lefuse_jax.weights_orbax import read_orbax  # imports jax

        arrays, metadata = read_orbax(path)
        converted = from_leaves(arrays, network, str(path))
    else:
        with open_checkpoint(path) as file:
            head = file.read(1024)
        if head.startswith(LOCAL_MAGIC):
            converted = from_checkpoint(read_pth(path), network, str(path))
        elif is_safetensors(head):
            converted, metadata = _read_safetensors(path, network)
        else:
            raise CheckpointError(f"{path}: {describe_wrong_format(head)}")
    digest = weights_hash(converted.arrays)
    if metadata.get("sha256", digest) != digest:
        raise CheckpointError(
            f"{path}: damaged: its content does not have the SHA-256 it was saved with; copy it again"
        )
    return LoadedWeights(
        network=converted.network,
        variables=unflatten(converted.arrays),
        metadata=metadata | _describe(converted, digest),
        path=path,
        ignored=converted.ignored,
        dtypes=converted.dtypes,
    )


def save_safetensors(
    path: str | os.PathLike[str],
    network: str,
    variables: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    dtype: str = "float32",
) -> str:
    """Writes a safetensors file atomically.

    Args:
        path: The file.
        network: The network the variables belong to.
        variables: Nested Flax variables, NumPy or JAX arrays.
        metadata: Text to store along, such as the training data and its terms.
        dtype: Type in which kernels are stored: "float32", "float16" or "bfloat16"; loading always gives
            float32. Vectors and running statistics stay float32: they are few, and more sensitive.

    Returns:
        The SHA-256 of the content as it will be loaded.

    Raises:
        CheckpointError: The variables are not exactly the network's, or do not fit in `dtype`.
        OutputError: The file cannot be written.
    """
    converted = from_leaves(flatten(variables), network, str(path))
    stored = {name: _store(name, array, dtype, path) for name, array in converted.arrays.items()}
    digest = weights_hash(
        {name: array.astype(converted.arrays[name].dtype) for name, array in stored.items()}
    )
    header = {"format": FORMAT, **(metadata or {}), **_describe(converted, digest)}
    write_bytes(path, safetensors.numpy.save(stored, {key: str(value) for key, value in header.items()}))
    return digest


def save_pth(path: str | os.PathLike[str], network: str, variables: Mapping[str, Any]) -> None:
    """Writes a `.pth` for PyTorch, atomically, with the keys and the outer dict of the published checkpoint.

    Raises:
        CheckpointError: The variables are not exactly the network's.
        OutputError: The file cannot be written.
    """
    write_pth(path, to_state_dict(network, flatten(variables), str(path)), PUBLISHED_WRAPPER[network])


def save_orbax(
    path: str | os.PathLike[str],
    network: str,
    variables: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Writes a new Orbax folder; arguments, result and errors as `save_safetensors`.

    Raises:
        OutputError: The folder exists or cannot be written.
    """
    from esr_lefuse_jax.weights_orbax import write_orbax  # imports jax

    converted = from_leaves(flatten(variables), network, str(path))
    digest = weights_hash(converted.arrays)
    header = {"format": FORMAT, **(metadata or {}), **_describe(converted, digest)}
    write_orbax(Path(path), unflatten(converted.arrays), {key: str(value) for key, value in header.items()})
    return digest


def weights_hash(variables: Mapping[str, Any]) -> str:
    """SHA-256 over paths, types, shapes and values of variables, whatever file they come from."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(variables).items()):
        array = np.asarray(leaf, order="C")
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _find_in_folder(folder: Path, network: str | None) -> Path:
    """Finds the weights in a run's folder (its best ones) or a checkpoint's (an Orbax folder per network)."""
    if (folder / ORBAX_MARK).is_file():
        return folder
    names = (network,) if network else NETWORKS
    found = [folder / name for name in names if (folder / name / ORBAX_MARK).is_file()]
    found += [folder / f"best_{name}.safetensors" for name in names]
    found += [folder / "best.safetensors"]
    found = [path for path in found if path.exists()]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{folder}: holds several networks; name {' or '.join(str(path) for path in found)}"
        )
    raise CheckpointError(
        f"{folder}: is neither an Orbax folder of weights nor a training run with best weights; name the file"
    )


def _describe(converted: Converted, digest: str) -> dict[str, str]:
    options = {key: str(value) for key, value in converted.options.items()}
    return {"network": converted.network, "sha256": digest, **options}


def _store(name: str, array: np.ndarray, dtype: str, path: str | os.PathLike[str]) -> np.ndarray:
    if dtype not in STORAGE_DTYPES:
        raise CheckpointError(f"{path}: cannot store {dtype!r}; one of: {', '.join(STORAGE_DTYPES)}")
    if array.ndim < 2:
        return array
    with np.errstate(over="ignore"):
        stored = array.astype(STORAGE_DTYPES[dtype])
    if not np.isfinite(stored.astype(np.float32)).all():
        raise CheckpointError(f"{path}: {name} does not fit in {dtype}; store bfloat16 or float32")
    return stored


def _read_safetensors(path: Path, network: str | None) -> tuple[Converted, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            # Shapes and types are judged from the header; only what fits is read.
            lazy = {name: _SafetensorsArray(file, name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") == FORMAT or any(name.startswith("params/") for name in lazy):
                named = metadata.get("network")
                if network and named and named != network:
                    raise CheckpointError(f"{path}: holds the {named} network, not {network}")
                return from_leaves(lazy, network or named, str(path)), metadata
            # Files of other programs keep PyTorch's keys; what their metadata say is not ours to compare.
            return from_state_dict(lazy, network, str(path)), {}
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path}: truncated or damaged safetensors file ({error}); copy it again"
        ) from None


class _SafetensorsArray:
    """A tensor of an open safetensors file, read on request."""

    def __init__(self, file: Any, name: str):
        header = file.get_slice(name)
        self.shape = tuple(header.get_shape())
        self.dtype = _SAFETENSORS_DTYPES.get(header.get_dtype(), header.get_dtype())
        self._file = file
        self._name = name

    def numpy(self) -> np.ndarray:
        return self._file.get_tensor(self._name)
