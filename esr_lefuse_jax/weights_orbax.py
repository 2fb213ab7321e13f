"""Orbax folders of variables. A module of its own because importing Orbax imports JAX."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from esr_lefuse_jax.errors import CheckpointError, OutputError
from weights_conversion.convert import flatten

# Collections of a network's variables; anything else in a folder (optimizer state, step) is left alone.
COLLECTIONS = ("params", "batch_stats")


def write_orbax(path: Path, variables: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes a folder; Orbax makes it appear only when it is complete.

    Raises:
        OutputError: The folder exists already or cannot be written.
    """
    if path.exists():
        raise OutputError(f"{path}: exists already; choose another name or delete it")
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"{path}: cannot be written: the folder {path.parent} does not exist: create it first"
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), dict(variables), custom_metadata=dict(metadata))
            checkpointer.wait_until_finished()
    except (OSError, ValueError) as error:
        for leftover in path.absolute().parent.glob(f"{path.name}.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        raise OutputError(f"{path}: cannot be written: {_first_line(error)}") from error


def read_orbax(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a folder.

    Returns:
        (flat variables, the metadata stored along).

    Raises:
        CheckpointError: It is no Orbax folder of variables, or it is damaged.
    """
    path = path.absolute()
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.metadata(path)
            tree = getattr(found.item_metadata, "tree", None)
            if not isinstance(tree, Mapping) or not tree.get("params"):
                raise CheckpointError(f"{path}: is an Orbax folder without 'params', so not of weights")
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            restored = checkpointer.restore(path, restore_args=as_numpy)
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged folder
        raise CheckpointError(f"{path}: cannot be read as an Orbax folder: {_first_line(error)}") from error
    arrays = flatten({name: restored[name] for name in COLLECTIONS if name in restored})
    return arrays, {str(key): str(value) for key, value in (found.custom_metadata or {}).items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
