"""The weights that come with the package, in sets by what they may be used for."""

from pathlib import Path

from esr_lefuse_jax.errors import CheckpointError

_FOLDER = Path(__file__).parent / "pretrained"


def shipped_path(network: str, weights_set: str = "open") -> Path:
    """Path of the package's own weights.

    Args:
        network: `fusion` or `sr`.
        weights_set: `open`, trained only on material that may be used for anything.

    Raises:
        CheckpointError: this version of the package ships none.
    """
    path = _path(network, weights_set)
    if not path.is_file():
        raise CheckpointError(
            f"this version of the package ships no {network} weights ({weights_set}): "
            f"give your own with --{network}_ckpt (load({network}=...) in Python)"
        )
    return path


def is_shipped(network: str, weights_set: str = "open") -> bool:
    """Whether the package has weights of its own for this network."""
    return _path(network, weights_set).is_file()


def _path(network: str, weights_set: str) -> Path:
    return _FOLDER / f"{network}_{weights_set}.safetensors"
