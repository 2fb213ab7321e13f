"""The weights that come with the package, in sets by what they may be used for."""

import os
from pathlib import Path

from esr_lefuse_jax.errors import CheckpointError

# What a set may be used for. `open` has both networks, `research` its own fusion network.
SETS = {
    "open": "free for any use (MIT)",
    "research": "trained with LLVIP and MSRS: for non-commercial research only",
}
_FOLDER = Path(__file__).parent / "pretrained"


def shipped_path(network: str, weights_set: str = "open") -> Path:
    """Path of the package's own weights.

    Args:
        network: `fusion` or `sr`.
        weights_set: one of `SETS`.

    Raises:
        CheckpointError: this version of the package ships none.
    """
    path = _path(network, weights_set)
    if not path.is_file():
        others = ", ".join(name for name in SETS if is_shipped(network, name))
        raise CheckpointError(
            f"this version of the package ships no {network} weights {weights_set!r}"
            f"{f' (it has {others})' if others else ''}: give a file or folder of your own"
        )
    return path


def resolve(path: str | os.PathLike[str], network: str | None) -> Path:
    """Path of weights that are given as a file, a folder, or the name of a set.

    Args:
        path: what the user gave; a file or folder of that name comes before a set.
        network: the network it must be, if known.

    Raises:
        CheckpointError: a set was named that has no such network, or without saying which network.
    """
    if str(path) not in SETS or os.path.exists(path):
        return Path(path)
    if network is None:
        raise CheckpointError(
            f"{path}: weights of the package: say of which network (--network fusion or sr)"
        )
    return shipped_path(network, str(path))


def is_shipped(network: str, weights_set: str = "open") -> bool:
    """Whether the package has weights of its own for this network."""
    return _path(network, weights_set).is_file()


def _path(network: str, weights_set: str) -> Path:
    return _FOLDER / f"{network}_{weights_set}.safetensors"
